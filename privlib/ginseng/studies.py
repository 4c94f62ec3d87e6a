"""One network under many settings: protection modes, memories, bus widths, and designs that nobody has built yet."""

import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import LoweringError
from privlib.ginseng.memory.dram import DRAM
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.memory.traffic import MODES
from privlib.ginseng.report import CycleReport
from privlib.ginseng.simulation import simulate
from privlib.ginseng.tec import measured_timing
from privlib.ginseng.vta import functional
from privlib.ginseng.vta.compile import lower
from privlib.ginseng.vta.config import VtaConfig
from privlib.ginseng.vta.program import VtaProgram

if TYPE_CHECKING:
    import torch

    from privlib.ginseng.int8 import QuantisedModel

PUBLISHED_MEGAHERTZ = 100
LATENCIES = (0, 20, 40, 80, 160, 320)
BUS_BITS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Point:
    """One setting of a sweep, without and with full protection."""

    setting: int
    free: CycleReport
    protected: CycleReport

    @property
    def cycle_overhead(self) -> float:
        """Cycles beyond the unprotected run's, as a fraction of them."""
        return self.protected.overhead(self.free)[0]


def modes(program: VtaProgram, names: Iterable[str] = MODES) -> dict[str, CycleReport]:
    """A report for each protection mode."""
    return {mode: simulate(program, mode) for mode in names}


def latency_sweep(program: VtaProgram, latencies: Iterable[int] = LATENCIES) -> list[Point]:
    """DRAM latency in cycles, all else as published."""
    memories = [replace(DRAM, read_latency=cycles, write_latency=cycles) for cycles in latencies]
    return [
        Point(memory.read_latency, simulate(program, memory=memory), simulate(program, "tec", memory=memory))
        for memory in memories
    ]


def width_sweep(program: VtaProgram, cores: int = 1, bits: Iterable[int] = BUS_BITS) -> list[Point]:
    """Width of the memory port in bits; `cores` encryption cores side by side take as many blocks a cycle."""
    tec = replace(measured_timing(), blocks_per_cycle=cores * measured_timing().blocks_per_cycle)
    memories = [DRAM.with_bus(each) for each in bits]
    return [
        Point(memory.bus_bits, simulate(program, memory=memory), simulate(program, "tec", memory=memory, tec=tec))
        for memory in memories
    ]


@dataclass(frozen=True)
class Design:
    """An accelerator: array of `block` x `block` multipliers, memory port, clock, encryption cores. Buffers are as
    published. Only the first row exists as a published design; that the others reach their clocks is an assumption."""

    block: int
    bus_bits: int
    megahertz: int
    cores: int = 1

    @property
    def name(self) -> str:
        """E.g. `array_16_port_64_at_100_mhz`, for the path of a metric."""
        return f"array_{self.block}_port_{self.bus_bits}_at_{self.megahertz}_mhz"

    @property
    def label(self) -> str:
        """For people; cores are encryption cores."""
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.block}×{self.block}, {self.bus_bits} bit, {self.megahertz} MHz, {cores}"


DESIGNS = (
    Design(16, 64, 100),
    Design(16, 64, 300),
    Design(32, 128, 300),
    Design(64, 128, 300),
    Design(64, 256, 300, cores=2),
    Design(64, 512, 300, cores=4),
)


def design_point(network: str, design: Design) -> Point:
    """The network, tiled for the design, without and with protection; the setting is the clock in MHz."""
    program = lower(network, config=VtaConfig(block=design.block))
    memory = DRAM.with_bus(design.bus_bits).at_clock(design.megahertz)
    tec = replace(measured_timing(), blocks_per_cycle=design.cores * measured_timing().blocks_per_cycle)
    return Point(design.megahertz, simulate(program, memory=memory), simulate(program, "tec", memory=memory, tec=tec))


def images_per_second(report: CycleReport, megahertz: float = PUBLISHED_MEGAHERTZ) -> float:
    """One image after the other, at a clock."""
    return megahertz * 1e6 / report.cycles


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predicted classes (N,) of the same images by the float model and by its int8 form, and the logits' relative L2
    distance."""

    float_classes: npt.NDArray[np.int64]
    int8_classes: npt.NDArray[np.int64]
    relative_error: float


def compare_with_float(program: VtaProgram, model: "torch.nn.Module", images: npt.NDArray[np.float32]) -> Comparison:
    """Run float32 (N, C, H, W) images through a model and through the program that was lowered from it."""
    import torch

    quantised = _quantised(program)
    with torch.inference_mode():
        batches = [model(torch.from_numpy(images[n : n + 500])) for n in range(0, len(images), 500)]
    expected = torch.cat(batches).numpy()
    found = quantised.dequantise(quantised.reference(quantised.quantise_images(images)))
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return Comparison(expected.argmax(1), found.argmax(1), error)


def bit_exact_images(program: VtaProgram, images: npt.NDArray[np.float32], protection: str = "tec") -> int:
    """How many of the images give, through the simulated accelerator and protected memory, the reference's bits."""
    quantised = _quantised(program)
    memory = protected_dram(protection, program)
    functional.load_constants(program, quantised.parameters, memory)
    inputs = quantised.quantise_images(images)
    outputs = [functional.run(program, memory, image).ravel() for image in inputs]
    return int((np.stack(outputs) == quantised.reference(inputs)).all(axis=1).sum())


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """Logits float32 (N, classes) of the same images: `protected` from a device to which model and images came
    encrypted, whose DRAM is encrypted, and which attested as `measurement`; `plain` from the unprotected simulator."""

    protected: npt.NDArray[np.float32]
    plain: npt.NDArray[np.float32]
    measurement: bytes

    @property
    def exact(self) -> int:
        """Of how many images both give the same bits."""
        return int((self.protected == self.plain).all(axis=1).sum())


def end_to_end(program: VtaProgram, images: npt.NDArray[np.float32]) -> EndToEnd:
    """Run float32 (N, C, H, W) images on the platform "ginseng", by a client who trusts its quotes alone, and on the
    same accelerator without protection. SIMULATED hardware, in fuses of its own."""
    from privlib.enclave import QuotePolicy, StateStore, launch
    from privlib.ginseng.device import GinsengPlatform, build_device_image, provision_model

    key = secrets.token_bytes(32)
    image = build_device_image(program, model_key=key)
    with tempfile.TemporaryDirectory(prefix="privlib-device-") as folder:
        platform = GinsengPlatform(Path(folder, "fuses"))
        policy = QuotePolicy(measurements=frozenset({image.measurement}), root=platform.root.certificate)
        with (
            launch(image, platform, state=StateStore(Path(folder, "state"))) as device,
            device.connect(policy) as session,
        ):
            provision_model(session, key, image, policy, device.collateral)
            protected = session.infer(images)
    return EndToEnd(protected, unprotected_logits(program, images), image.measurement)


def unprotected_logits(program: VtaProgram, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits float32 (N, classes) from the simulated accelerator over plain memory."""
    quantised = _quantised(program)
    memory = protected_dram("none", program)
    functional.load_constants(program, quantised.parameters, memory)
    outputs = [functional.run(program, memory, each).ravel() for each in quantised.quantise_images(images)]
    return quantised.dequantise(np.stack(outputs))


def _quantised(program: VtaProgram) -> "QuantisedModel":
    if program.quantised is None:
        raise LoweringError("the program comes from a table of shapes; lower a PyTorch model to compare with it")
    return program.quantised
