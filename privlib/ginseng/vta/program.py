"""A lowered network: instruction streams, micro-ops, and where every tensor lives in DRAM."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.config import INSTRUCTION_BYTES, UOP_BYTES, VtaConfig
from privlib.ginseng.vta.isa import Instruction, Memory, MemoryInstruction
from privlib.ginseng.vta.network import Conv, Network, Parameters, Shape, Window
from privlib.ginseng.vta.uops import encode_uops

if TYPE_CHECKING:
    from privlib.ginseng.int8 import QuantisedModel

ALIGNMENT = 4096
"""Regions begin on an AXI 4 KiB boundary, which no burst may cross (AMBA AXI, IHI 0022, A3.4.1)."""


class Kind(StrEnum):
    """What a region holds; reports count bytes by it."""

    INSTRUCTIONS = "instructions"
    UOPS = "uops"
    BIAS = "bias"
    WEIGHTS = "weights"
    ACTIVATIONS = "activations"


@dataclass(frozen=True)
class Region:
    """`size` bytes of DRAM from `base`; `number` is the tensor's identity on the chip."""

    name: str
    kind: Kind
    base: int
    size: int
    number: int

    @property
    def end(self) -> int:
        return self.base + self.size


@dataclass(frozen=True)
class WeightTile:
    """One contiguous weight load: `out_blocks` x `in_blocks` matrices from block (out_first, in_first)."""

    out_first: int
    out_blocks: int
    in_first: int
    in_blocks: int


@dataclass(frozen=True)
class LayerProgram:
    """One launch: the stream of one layer, ended by FINISH. Regions are named after the layer."""

    layer: Window
    instructions: tuple[Instruction, ...]
    uops: npt.NDArray[np.int64]
    weight_tiles: tuple[WeightTile, ...]
    identity: bool
    schedule: object

    @property
    def name(self) -> str:
        return self.layer.name


@dataclass(frozen=True)
class VtaProgram:
    """All layers of a network and their DRAM layout; `regions` are in order of tensor number; `quantised` holds the
    integers and scales of what came from a PyTorch model."""

    network: Network
    config: VtaConfig
    layers: tuple[LayerProgram, ...]
    regions: Mapping[str, Region]
    quantised: "QuantisedModel | None" = None

    def last_use(self) -> dict[str, list[str]]:
        """For each layer, the regions that no later layer reads: its own constants, and tensors it reads last."""
        dying: dict[str, list[str]] = {layer.name: [] for layer in self.layers}
        readers = {
            tensor: layer.name for layer in self.network.layers for tensor in (layer.source, layer.residual) if tensor
        }
        for tensor, reader in readers.items():
            dying[reader].append(tensor)
        for name in self.regions:
            owner, _, part = name.rpartition(":")
            if part and owner:
                dying[owner].append(name)
        return dying

    def image(self, parameters: Parameters) -> dict[str, bytes]:
        """Contents of every constant region: instruction and micro-op streams, biases, weights in the order of use.

        Raises LoweringError when a convolution's weights or bias are missing or of another shape or dtype.
        """
        contents: dict[str, bytes] = {}
        for layer in self.layers:
            contents[f"{layer.name}:instructions"] = b"".join(i.encode() for i in layer.instructions)
            contents[f"{layer.name}:uops"] = encode_uops(layer.uops)
            if f"{layer.name}:bias" in self.regions:
                contents[f"{layer.name}:bias"] = _pack_bias(layer.layer, parameters, self.config.block)
            if f"{layer.name}:weights" in self.regions:
                contents[f"{layer.name}:weights"] = _pack_weights(layer, parameters, self.config.block)
        return contents

    def pack(self, tensor: npt.NDArray[np.int8]) -> bytes:
        """An int8 (C, H, W) tensor as DRAM holds it: (ceil(C / block), H, W, block), missing channels zero."""
        block = self.config.block
        channels, rows, columns = tensor.shape
        padded = np.zeros((blocks(channels, block) * block, rows, columns), np.int8)
        padded[:channels] = tensor
        return padded.reshape(-1, block, rows, columns).transpose(0, 2, 3, 1).tobytes()

    def unpack(self, raw: bytes, shape: Shape) -> npt.NDArray[np.int8]:
        """The inverse of `pack` for a tensor of `shape`."""
        channels, rows, columns = shape
        packed = np.frombuffer(raw, np.int8).reshape(-1, rows, columns, self.config.block)
        return packed.transpose(0, 3, 1, 2).reshape(-1, rows, columns)[:channels].copy()


def blocks(channels: int, block: int) -> int:
    return -(-channels // block)


class Layout:
    """Hands out regions, one after the other, each on its own alignment."""

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self._next = 0

    def add(self, name: str, kind: Kind, size: int) -> Region:
        region = Region(name, kind, self._next, size, len(self.regions))
        self.regions[name] = region
        self._next = -(-(self._next + size) // ALIGNMENT) * ALIGNMENT
        return region


def element_bytes(memory: Memory, config: VtaConfig) -> int:
    """Bytes in DRAM of one element of a buffer: the unit of an instruction's addresses and sizes."""
    return {Memory.UOP: UOP_BYTES, Memory.WGT: config.weight_bytes, Memory.ACC: config.accumulator_bytes}.get(
        memory, config.input_bytes
    )


def dram_ranges(instruction: MemoryInstruction, config: VtaConfig, *, join: bool = True) -> list[tuple[int, int]]:
    """The (start, end) byte ranges of DRAM that a DMA touches, row by row; with `join`, rows that touch become one."""
    unit = element_bytes(instruction.memory, config)
    start = instruction.dram_base * unit
    size, stride = instruction.x_size * unit, instruction.x_stride * unit
    if size == 0 or instruction.y_size == 0:
        return []
    if join and size == stride:
        return [(start, start + size * instruction.y_size)]
    return [(start + row * stride, start + row * stride + size) for row in range(instruction.y_size)]


def instruction_bytes(layer: LayerProgram) -> int:
    return INSTRUCTION_BYTES * len(layer.instructions)


def _pack_bias(layer: Window, parameters: Parameters, block: int) -> bytes:
    bias = np.zeros(blocks(layer.out_channels, block) * block, np.int32)
    bias[: layer.out_channels] = _parameter(layer, parameters)[1]
    return bias.astype("<i4").tobytes()


def _pack_weights(program: LayerProgram, parameters: Parameters, block: int) -> bytes:
    """Matrices of (out, in) for each tile, in the order tile, out block, in block, kernel row, kernel column."""
    layer = program.layer
    pieces = (
        [np.eye(block, dtype=np.int8) << (layer.residual_shift if isinstance(layer, Conv) else 0)]
        if program.identity
        else []
    )
    if program.weight_tiles:
        weights = _parameter(layer, parameters)[0]
        size = layer.kernel
        outs, ins = blocks(layer.out_channels, block), blocks(layer.channels, block)
        depthwise = isinstance(layer, Conv) and layer.depthwise
        full = np.zeros(
            (outs * block, (1 if depthwise else ins) * (block if not depthwise else 1), size, size), np.int8
        )
        full[: weights.shape[0], : weights.shape[1]] = weights
        if depthwise:
            diagonal = np.zeros((outs, 1, size, size, block, block), np.int8)
            index = np.arange(block)
            diagonal[..., index, index] = full.reshape(outs, block, 1, size, size).transpose(0, 2, 3, 4, 1)
            matrices = diagonal
        else:
            matrices = full.reshape(outs, block, ins, block, size, size).transpose(0, 2, 4, 5, 1, 3)
        for tile in program.weight_tiles:
            pieces.append(
                matrices[
                    tile.out_first : tile.out_first + tile.out_blocks, tile.in_first : tile.in_first + tile.in_blocks
                ]
            )
    return b"".join(np.ascontiguousarray(piece).tobytes() for piece in pieces)


def _parameter(layer: Window, parameters: Parameters) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    if not isinstance(layer, Conv) or layer.name not in parameters:
        raise LoweringError(f"no weights were given for layer {layer.name!r}")
    weights, bias = parameters[layer.name]
    if weights.shape != layer.weight_shape or weights.dtype != np.int8:
        raise LoweringError(
            f"weights of {layer.name!r} must be int8 {layer.weight_shape}, got {weights.dtype} {weights.shape}"
        )
    if bias.shape != (layer.filters,) or bias.dtype != np.int32:
        raise LoweringError(f"bias of {layer.name!r} must be int32 ({layer.filters},), got {bias.dtype} {bias.shape}")
    return weights, bias
