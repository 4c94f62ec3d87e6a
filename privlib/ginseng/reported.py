"""What others report: published cycle counts of VTA, and overheads of memory protection for accelerators.

They come from other machines and simulators: they stand beside ours, and bars are set only where a section of the
README or a test says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reported:
    """A number of somebody else; `name` is the column of a metric path."""

    name: str
    label: str
    value: float
    unit: str
    source: str


PULL_30 = "apache/tvm-vta, pull request 30 (Chisel Pipelined GEMM), ResNet-18 v1 on tsim"
PULL_32 = "apache/tvm-vta, pull request 32, a test program, tiling unstated, read off in million cycles"

PIPELINED_CYCLES = Reported("tvm_vta_pipelined", "VTA, pipelined GEMM", 7_729_601, "cycles", PULL_30)
UNPIPELINED_CYCLES = Reported("tvm_vta_unpipelined", "VTA, unpipelined GEMM", 27_679_515, "cycles", PULL_30)

BUS_WIDTH_CYCLES: dict[int, Reported] = {
    bits: Reported("tvm_vta", f"VTA, {bits}-bit AXI", millions * 1_000_000, "cycles", PULL_32)
    for bits, millions in ((64, 97), (128, 58), (256, 39), (512, 29))
}

OVERHEADS: tuple[Reported, ...] = (
    Reported("guardnn", "GuardNN, inference on an FPGA", 3.0, "%", "Hua et al., DAC 2022, arXiv 2008.11632"),
    Reported("mgx", "MGX", 4.0, "%", "Hua et al., ISCA 2022, arXiv 2004.09679"),
    Reported("mgx_baseline", "SGX-like tree (MGX's baseline)", 28.0, "%", "Hua et al., ISCA 2022, arXiv 2004.09679"),
    Reported("tnpu_low", "TNPU, smallest", 8.7, "%", "Lee et al., HPCA 2022"),
    Reported("tnpu_high", "TNPU, largest", 13.3, "%", "Lee et al., HPCA 2022"),
)
