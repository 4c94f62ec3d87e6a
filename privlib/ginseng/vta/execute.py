"""The on-chip buffers and what each instruction does to them, vectorised.

Sums are int32 and wrap; the output buffer takes the low 8 bits of every accumulator written (core/TensorGemm.scala,
core/TensorAlu.scala). Products of int8 are summed in float32, exactly: at most 63 blocks of 16 products of magnitude
2**14 stay below 2**24.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import ExecutionError
from privlib.ginseng.vta.config import VtaConfig
from privlib.ginseng.vta.isa import Alu, AluOp, Gemm, Instruction, Load, Memory, MemoryInstruction, Store
from privlib.ginseng.vta.program import dram_ranges
from privlib.ginseng.vta.uops import decode_uops

_EXACT_BLOCKS = 63
Index = npt.NDArray[np.int64]
_BINARY: dict[AluOp, Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any]]] = {
    AluOp.MIN: np.minimum,
    AluOp.MAX: np.maximum,
    AluOp.ADD: np.add,
    AluOp.MUL: np.multiply,
}


class Buffers:
    """Scratchpads of one core, and the instructions' effect on them; `read` and `write` reach DRAM."""

    def __init__(
        self, config: VtaConfig, read: Callable[[int, int], bytes], write: Callable[[int, bytes], None]
    ) -> None:
        block = config.block
        self.config, self._read, self._write = config, read, write
        self.uops: Index = np.zeros((config.uop_depth, 3), np.int64)
        self.inputs = np.zeros((config.input_depth, block), np.int8)
        self.weights = np.zeros((config.weight_depth, block, block), np.int8)
        self.accumulators = np.zeros((config.accumulator_depth, block), np.int32)
        self.outputs = np.zeros((config.accumulator_depth, block), np.int8)

    def execute(self, instruction: Instruction) -> None:
        """Apply one instruction. ExecutionError for an index outside a buffer."""
        if isinstance(instruction, Load):
            self._load(instruction)
        elif isinstance(instruction, Store):
            self._store(instruction)
        elif isinstance(instruction, Gemm):
            self._gemm(instruction)
        elif isinstance(instruction, Alu):
            self._alu(instruction)

    def _rows(self, instruction: MemoryInstruction) -> bytes:
        return b"".join(self._read(*span) for span in dram_ranges(instruction, self.config))

    def _load(self, load: Load) -> None:
        block, raw = self.config.block, self._rows(load)
        if load.memory is Memory.UOP:
            self._place(self.uops, load.sram_base, decode_uops(raw))
            return
        if load.memory is Memory.WGT:
            values: npt.NDArray[Any] = np.frombuffer(raw, np.int8).reshape(-1, block, block)
        elif load.memory is Memory.ACC:
            values = np.frombuffer(raw, "<i4").reshape(-1, block)
        elif load.memory in (Memory.INP, Memory.ACC_8BIT):
            values = np.frombuffer(raw, np.int8).reshape(-1, block)
        else:
            raise ExecutionError(f"LOAD into {load.memory.name} is not possible")
        values = values.reshape(load.y_size, load.x_size, *values.shape[1:])
        pads = ((load.y_pad_0, load.y_pad_1), (load.x_pad_0, load.x_pad_1)) + ((0, 0),) * (values.ndim - 2)
        values = np.pad(values, pads)
        target = {Memory.WGT: self.weights, Memory.INP: self.inputs}.get(load.memory, self.accumulators)
        self._place(target, load.sram_base, values.reshape(-1, *values.shape[2:]))

    @staticmethod
    def _place(target: npt.NDArray[Any], base: int, values: npt.NDArray[Any]) -> None:
        if base + len(values) > len(target):
            raise ExecutionError(f"LOAD of {len(values)} elements at {base} runs past a buffer of {len(target)}")
        target[base : base + len(values)] = values

    def _store(self, store: Store) -> None:
        count = store.y_size * store.x_size
        if store.memory is not Memory.OUT or store.sram_base + count > len(self.outputs):
            raise ExecutionError(
                f"STORE of {count} elements at {store.sram_base} of {store.memory.name} is not possible"
            )
        raw = self.outputs[store.sram_base : store.sram_base + count].tobytes()
        position = 0
        for start, end in dram_ranges(store, self.config):
            self._write(start, raw[position : position + end - start])
            position += end - start

    def _loops(self, instruction: Gemm | Alu) -> tuple[Index, Index, Index]:
        """The micro-ops, and the outer and inner counter of each iteration of the two loops."""
        uops = self.uops[instruction.uop_begin : instruction.uop_end]
        if len(uops) != instruction.uop_end - instruction.uop_begin:
            raise ExecutionError(f"micro-ops {instruction.uop_begin}..{instruction.uop_end} are outside the buffer")
        return (
            uops,
            np.repeat(np.arange(instruction.iter_out), instruction.iter_in),
            np.tile(np.arange(instruction.iter_in), instruction.iter_out),
        )

    def _gemm(self, gemm: Gemm) -> None:
        uops, outer, inner = self._loops(gemm)
        dst_offsets = outer * gemm.dst_factor_out + inner * gemm.dst_factor_in
        if gemm.reset:
            for dst in uops[:, 0]:
                self._check(dst + dst_offsets, self.accumulators)
                self._put(dst + dst_offsets, np.zeros((len(dst_offsets), self.config.block), np.int32))
            return
        src_offsets = outer * gemm.src_factor_out + inner * gemm.src_factor_in
        wgt_offsets = outer * gemm.wgt_factor_out + inner * gemm.wgt_factor_in
        # Sums do not depend on their order, so passes over the same destinations become one wide matrix product.
        terms: dict[bytes, list[tuple[Index, int]]] = {}
        members = [(int(offset), np.flatnonzero(wgt_offsets == offset)) for offset in np.unique(wgt_offsets)]
        for dst, src, wgt in uops.tolist():
            for offset, which in members:
                terms.setdefault((dst + dst_offsets[which]).tobytes(), []).append(
                    (src + src_offsets[which], wgt + offset)
                )
        for key, passes in terms.items():
            destinations = np.frombuffer(key, np.int64)
            self._check(destinations, self.accumulators)
            for start in range(0, len(passes), _EXACT_BLOCKS):
                self._multiply(destinations, passes[start : start + _EXACT_BLOCKS])

    def _multiply(self, destinations: Index, passes: list[tuple[Index, int]]) -> None:
        sources = np.stack([source for source, _ in passes], axis=1)
        matrices = np.array([matrix for _, matrix in passes])
        self._check(sources, self.inputs)
        self._check(matrices, self.weights)
        block = self.config.block
        left = self.inputs[sources].reshape(len(destinations), -1).astype(np.float32)
        right = self.weights[matrices].transpose(0, 2, 1).reshape(-1, block).astype(np.float32)
        products = (left @ right).astype(np.int32)
        if len(np.unique(destinations)) == len(destinations):
            self._put(destinations, self.accumulators[destinations] + products)
        else:
            np.add.at(self.accumulators, destinations, products)
            self._put(destinations, self.accumulators[destinations])

    def _alu(self, alu: Alu) -> None:
        uops, outer, inner = self._loops(alu)
        for dst, src, _ in uops.tolist():
            destinations = dst + outer * alu.dst_factor_out + inner * alu.dst_factor_in
            sources = src + outer * alu.src_factor_out + inner * alu.src_factor_in
            self._check(destinations, self.accumulators)
            self._check(sources, self.accumulators)
            # Vectorised only where no step reads or rewrites what an earlier step of the same instruction wrote.
            apart = alu.use_immediate or not np.isin(sources, destinations).any()
            if apart and len(np.unique(destinations)) == len(destinations):
                self._put(destinations, self._operate(alu, destinations, sources))
            else:
                for one in range(len(destinations)):
                    step = slice(one, one + 1)
                    self._put(destinations[step], self._operate(alu, destinations[step], sources[step]))

    def _operate(self, alu: Alu, destinations: Index, sources: Index) -> npt.NDArray[np.int32]:
        """One operand is the source register, the other the immediate or, without one, the destination."""
        left = self.accumulators[sources if alu.use_immediate else destinations]
        right = np.full_like(left, alu.immediate) if alu.use_immediate else self.accumulators[sources]
        if alu.op is not AluOp.SHR:
            return _BINARY[alu.op](left, right).astype(np.int32)
        return np.where(right >= 0, left >> (right & 31), left << (-right & 31)).astype(np.int32)

    def _put(self, destinations: Index, values: npt.NDArray[np.int32]) -> None:
        self.accumulators[destinations] = values
        self.outputs[destinations] = values.astype(np.int8)

    @staticmethod
    def _check(index: Index, buffer: npt.NDArray[Any]) -> None:
        if index.size and not (index.min() >= 0 and index.max() < len(buffer)):
            raise ExecutionError(f"indices {index.min()}..{index.max()} are outside a buffer of {len(buffer)} elements")
