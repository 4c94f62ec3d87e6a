"""The accelerator's geometry and the cycles each engine takes, every number with its source.

Sources are named by file of the public VTA repository (apache/tvm-vta) at the commit "Chisel Pipelined GEMM (#30)",
whose cycle counts are the published reference. "State machine" means: counted from the states an instruction passes
through.
"""

from dataclasses import dataclass

INSTRUCTION_BYTES = 16
UOP_BYTES = 4


@dataclass(frozen=True)
class VtaConfig:
    """Buffer sizes in bytes and the GEMM block (config/vta_config.json: LOG_BLOCK 4, LOG_*_BUFF_SIZE 15, 15, 18,
    17)."""

    block: int = 16
    uop_buffer_bytes: int = 1 << 15
    input_buffer_bytes: int = 1 << 15
    weight_buffer_bytes: int = 1 << 18
    accumulator_buffer_bytes: int = 1 << 17

    @property
    def input_bytes(self) -> int:
        """Bytes of one input element: a vector of `block` int8."""
        return self.block

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight element: a `block` x `block` int8 matrix."""
        return self.block * self.block

    @property
    def accumulator_bytes(self) -> int:
        """Bytes of one accumulator element: a vector of `block` int32."""
        return 4 * self.block

    @property
    def uop_depth(self) -> int:
        return self.uop_buffer_bytes // UOP_BYTES

    @property
    def input_depth(self) -> int:
        return self.input_buffer_bytes // self.input_bytes

    @property
    def weight_depth(self) -> int:
        return self.weight_buffer_bytes // self.weight_bytes

    @property
    def accumulator_depth(self) -> int:
        return self.accumulator_buffer_bytes // self.accumulator_bytes


@dataclass(frozen=True)
class EngineTiming:
    """Cycles of the engines themselves; what the memory port costs is in `privlib.ginseng.memory.dram`."""

    gemm_cycles_per_pass: int = 1
    """TensorGemm.scala, TensorGemmPipelinedSplit: the index generator advances every cycle."""

    gemm_overhead: int = 7
    """Compute.scala and TensorGemm.scala, state machine: registered start (1), index generator starts (1), four stages
    from index to write-back and one to count it out (5)."""

    alu_immediate_cycles: int = 1
    """TensorAlu.scala, TensorAluIndexGenerator: `advance` every cycle when the second operand is an immediate."""

    alu_tensor_cycles: int = 2
    """Same place: one cycle of `stutter` to read the second operand through the single accumulator port."""

    alu_overhead: int = 7
    """Compute.scala and TensorAlu.scala, state machine: as for GEMM (registered start, four stages, counting out)."""

    finish_cycles: int = 1
    """Compute.scala: FINISH is done in its first cycle of sExe."""

    issue_cycles: int = 1
    """Load.scala, Compute.scala, Store.scala: sIdle to sExe."""

    pad_element_cycles: int = 2
    """TensorUtil.scala, TensorPadCtrl: one cycle for each 64-bit word of zero padding, two words an input element."""

    store_element_cycles: int = 3
    """TensorStore.scala, state machine: two sWriteData beats and one sReadMem an output element (64-bit port)."""

    queue_entries: int = 512
    """core/Configs.scala: instQueueEntries, for each of the three engines."""

    fetch_instructions: int = 128
    """Fetch.scala: the queue holds one burst of 256 beats, which is drained before the next is read."""


PIPELINED = EngineTiming()
UNPIPELINED = EngineTiming(gemm_cycles_per_pass=4, gemm_overhead=5)
"""TensorGemm.scala, TensorGemmSimple: sReadUop, sComputeIdx, sReadTensor, sExe for each pass; start (1), sReadUop
entered (1), two pipe stages and counting out (3)."""

PUBLISHED = VtaConfig()
