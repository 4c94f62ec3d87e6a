"""Ginseng: cycles and bytes under five protections, the published cycle counts, sweeps over memories, block sizes and
designs, the encryption core, attacks, proofs; trained networks in int8 on the attested device, beside a CPU enclave."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from privlib import data, models, trained
from privlib.compiler import compile_inference
from privlib.enclave import QuotePolicy, SimulatedRoot, build_image, launch
from privlib.ginseng import CycleReport, attacks, lower, reported, simulate, studies
from privlib.ginseng.int8 import QuantisedModel
from privlib.ginseng.memory import blocks
from privlib.ginseng.memory.dram import TSIM
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.memory.traffic import MODES
from privlib.ginseng.reported import Reported
from privlib.ginseng.vta import functional
from privlib.ginseng.vta.config import PIPELINED, UNPIPELINED
from privlib.ginseng.vta.network import random_parameters
from privlib.ginseng.vta.program import VtaProgram
from privlib.suite import record, stats, timing

if TYPE_CHECKING:
    import torch

VERSION = "2"
SEED = 20180
NETWORKS = ("resnet18", "resnet32", "vgg9", "mobilenet")
CYCLES_BAR, TRAFFIC_BAR = 0.01, 0.005
"""What full protection may cost at the published configuration, as fractions."""
CALIBRATION_IMAGES = 256
ENCLAVE_BATCH = 64
TRAINED: tuple[tuple[str, models.Name, models.Norm | None], ...] = (
    ("small_cnn_trained", "small_cnn", None),
    ("vgg9_trained", "vgg9", None),
    ("resnet32_batch_norm_trained", "resnet32", "batch"),
    ("mobilenet_trained", "mobilenet", None),
)


def run(profile: str, rows: Sequence[str]) -> None:
    """Record `rows`; `smoke` keeps to ResNet-32 and a few settings."""
    record.seed("weights_and_images", SEED)
    for row in rows:
        start = time.monotonic()
        if row in NETWORKS:
            if profile != "smoke" or row == "resnet32":
                network(row)
        else:
            STUDIES[row](profile)
        print(f"{row}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def network(name: str) -> None:
    """One network in every mode, and the same bits out of encrypted memory as from the reference."""
    program = lower(name)
    start = time.process_time()
    reports = studies.modes(program)
    seconds = time.process_time() - start
    for mode, report in reports.items():
        _simulated(f"{name}/{mode}/cycles", report.cycles, "cycles")
        _simulated(f"{name}/{mode}/bytes_moved", report.bytes_moved, "bytes")
        _simulated(f"{name}/{mode}/throughput_at_100_mhz", studies.images_per_second(report), "images/s")
        if mode != "none":
            _overheads(f"{name}/{mode}", report, reports["none"])
    _overheads(f"{name}/tec_before_store", simulate(program, "tec", check="before_store"), reports["none"])
    record.metric(f"{name}/all_modes/simulation_time", seconds, "s", nature="timing", higher_is_better=False)
    _simulated(f"{name}/tec/bit_exact", int(_bit_exact(program)), "")
    cycles, traffic = reports["tec"].overhead(reports["none"])
    if cycles > CYCLES_BAR or traffic > TRAFFIC_BAR:
        record.note(f"{name}: full protection costs {cycles:.2%} of cycles, {traffic:.2%} of traffic: above its bar")


def _bit_exact(program: VtaProgram) -> bool:
    """Whether one inference over encrypted memory gives what exact integer arithmetic gives; weights are random."""
    parameters = random_parameters(program.network, SEED)
    image = np.random.default_rng(SEED).integers(-128, 128, program.network.input_shape, dtype=np.int8)
    memory = protected_dram("tec", program)
    functional.load_constants(program, parameters, memory)
    found = functional.run(program, memory, image)
    return bool((found.ravel() == QuantisedModel(program.network, parameters, {}).reference(image[None])[0]).all())


def published(profile: str) -> None:
    """ResNet-18 at tsim's ideal memory with the published tiles, our own beside them; widths of the memory port."""
    if profile == "smoke":
        return
    programs = {tiling: lower("resnet18", tiling=tiling) for tiling in ("published", "search")}
    for label, engines, theirs in (
        ("pipelined", PIPELINED, reported.PIPELINED_CYCLES),
        ("unpipelined", UNPIPELINED, reported.UNPIPELINED_CYCLES),
    ):
        row = f"resnet18_{label}"
        cycles = {
            tiling: simulate(program, memory=TSIM, engines=engines).cycles for tiling, program in programs.items()
        }
        _simulated(f"{row}/published_tiles/cycles_on_tsim", cycles["published"], "cycles")
        _simulated(f"{row}/our_tiles/cycles_on_tsim", cycles["search"], "cycles")
        _simulated(
            f"{row}/published_tiles/deviation_from_published", 100 * (cycles["published"] / theirs.value - 1), "%"
        )
        _reported(f"{row}/{theirs.name}/cycles_on_tsim", theirs)
    for bits, theirs in reported.BUS_WIDTH_CYCLES.items():
        cycles_at = simulate(programs["published"], memory=TSIM.with_bus(bits)).cycles
        _simulated(f"resnet18/port_{bits}/cycles_on_tsim_by_port_width", cycles_at, "cycles")
        _reported(f"other_program_vta/port_{bits}/cycles_on_tsim_by_port_width", theirs)


def latency(profile: str) -> None:
    """What full protection costs as DRAM gets slower."""
    for name in _networks(profile):
        for point in studies.latency_sweep(lower(name), (40, 320) if profile == "smoke" else studies.LATENCIES):
            column = f"{name}/latency_{point.setting}"
            _simulated(f"{column}/cycles_by_dram_latency", point.free.cycles, "cycles")
            _simulated(f"{column}/tec_cycle_overhead_by_dram_latency", 100 * point.cycle_overhead, "%")


def bus_width(profile: str) -> None:
    """What it costs as the memory port outgrows one encryption core, and with one core for each 128 bits."""
    widths = studies.BUS_BITS if profile != "smoke" else (64, 512)
    for name in _networks(profile):
        program = lower(name)
        for cores in (1, 2, 4) if profile != "smoke" else (1, 4):
            for point in studies.width_sweep(program, cores, widths):
                column = f"port_{point.setting}"
                row = f"{name}_{cores}_core{'s' if cores > 1 else ''}"
                _simulated(f"{row}/{column}/tec_cycle_overhead_by_port_width", 100 * point.cycle_overhead, "%")
                if cores == 1:
                    _simulated(f"{name}/{column}/cycles_by_port_width", point.free.cycles, "cycles")


def block_size(profile: str) -> None:
    """Extra bytes by size of the authentication block, nothing kept on chip, and for the blocks that were chosen."""
    for name in _networks(profile):
        for size, extra in blocks.granularity_curve(lower(name)).items():
            column = size.replace(" B", "_bytes")
            _simulated(f"{name}/{column}/extra_traffic_by_block_size", 100 * extra, "%")


def designs(profile: str) -> None:
    """Images a second at other arrays, ports and clocks; that they can be built is assumed."""
    for name in ("vgg9", "resnet32") if profile != "smoke" else ("resnet32",):
        for design in studies.DESIGNS if profile != "smoke" else studies.DESIGNS[:2]:
            point = studies.design_point(name, design)
            for column, report in ((name, point.free), (f"{name}_tec", point.protected)):
                rate = studies.images_per_second(report, design.megahertz)
                _simulated(f"{design.name}/{column}/throughput_by_design", rate, "images/s")


def core(profile: str) -> None:
    """The encryption core: latency and rate in its RTL, area after synthesis. Needs the extra `ginseng`."""
    from privlib.ginseng import rtl_area, rtl_flow, tec

    timing = tec.measured_timing() if profile == "smoke" else rtl_flow.measure_timing()
    areas = rtl_area.synthesise() if profile == "full" else rtl_area.stored()
    if profile != "full":
        record.note("the encryption core's area is the stored synthesis of exactly this RTL; full synthesises again")
    _simulated("encryption_core/data/latency", timing.latency_cycles, "cycles")
    _simulated("encryption_core/tag/latency", timing.tag_latency_cycles, "cycles")
    _simulated("encryption_core/key_setup/latency", timing.key_setup_cycles, "cycles")
    _simulated("encryption_core/data/blocks_a_cycle", timing.blocks_per_cycle, "")
    for area in areas:
        _simulated(f"{area.block}/look-up_tables/area", area.lut, "cells")
        _simulated(f"{area.block}/flip-flops/area", area.ff, "cells")
    for name, column in (("lut", "look-up_tables"), ("ff", "flip-flops")):
        number = Reported(column, "open core", rtl_area.OPEN_CORE[name], "cells", rtl_area.OPEN_CORE["design"])
        _reported(f"open_aes_gcm/{column}/area", number)


def attack(profile: str) -> None:
    """Every attack under every mode (1: stopped), and one bit flipped in every burst."""
    modes = MODES if profile != "smoke" else ("none", "tec")
    for outcome in attacks.matrix(modes):
        row = outcome.attack.replace(" ", "_")
        record.metric(
            f"{row}/{outcome.mode}/verdict", outcome.verdict.value, "", nature="deterministic", kind="simulated"
        )
        _simulated(f"{row}/{outcome.mode}/stopped", int(outcome.verdict.stopped), "")
    for mode in modes:
        coverage = attacks.flip_every_burst(mode)
        _simulated(f"flip_every_burst/{mode}/bursts", coverage.flipped, "")
        _simulated(f"flip_every_burst/{mode}/detected", 100 * coverage.detected / coverage.flipped, "%")


def monitor(profile: str) -> None:
    """The monitor's obligations, and mutants of its table (not in smoke)."""
    from privlib.ginseng.monitor import mutants, proofs

    start = time.monotonic()
    verdicts = [outcome.verdict for outcome in proofs.prove_all()]
    seconds = time.monotonic() - start
    for verdict in ("proved", "refuted", "unknown"):
        _proved(f"obligations/monitor/{verdict}", verdicts.count(verdict))
    record.metric("obligations/monitor/time", seconds, "s", nature="timing", higher_is_better=False)
    if profile == "smoke":
        return
    judged = mutants.judge_all()
    _proved("mutants/monitor/found", sum(bool(one.found) for one in judged))
    _proved("mutants/monitor/equivalent", sum(one.equivalent for one in judged))
    _proved("mutants/monitor/survived", sum(one.survived for one in judged))


def end_to_end(profile: str) -> None:
    """Networks trained and quantised, on the attested device: model and images in encrypted, logits out encrypted.
    ResNet-32 is the variant with BatchNorm: GroupNorm needs each image's own statistics."""
    record.dataset(data.load_cifar10("test"))
    for row, name, norm in TRAINED if profile != "smoke" else TRAINED[:1]:
        _trained(row, name, norm, profile)


def _trained(row: str, name: models.Name, norm: models.Norm | None, profile: str) -> None:
    """Accuracy beside float's and agreement on test images; some of them on the device, with the bits of the
    unprotected run; images a second beside those of a CPU enclave with the float network."""
    recipe: trained.Profile = "smoke" if profile == "smoke" else "quick"
    found = trained.load_trained(name, recipe, norm=norm)
    record.note(f"trained as {recipe!r} says, in {found.train_seconds:.0f} s: {found.accuracy_line}")
    test = data.load_cifar10("test")
    count = {"smoke": 200, "quick": 1000}.get(profile, len(test))
    images, labels = data.preprocess(test.images[:count]), test.labels[:count]
    program = lower(found.model, data.preprocess(data.load_cifar10("train").images[:CALIBRATION_IMAGES]))
    comparison = studies.compare_with_float(program, found.model, images)
    for column, classes in (("float32", comparison.float_classes), ("int8", comparison.int8_classes)):
        _share(f"{row}/{column}/test_accuracy", int((classes == labels).sum()), count)
    same = int((comparison.float_classes == comparison.int8_classes).sum())
    _share(f"{row}/int8/agreement_with_float", same, count)
    sent = images[: {"smoke": 2, "quick": 8}.get(profile, 64)]
    outcome = studies.end_to_end(program, sent)
    _simulated(f"{row}/device/images", len(sent), "")
    _simulated(f"{row}/device/bit_exact_images", outcome.exact, "")
    for mode in ("none", "tec"):
        report = simulate(program, mode)
        _simulated(f"{row}/{mode}/cycles", report.cycles, "cycles")
        _simulated(f"{row}/{mode}/throughput_of_trained_at_100_mhz", studies.images_per_second(report), "images/s")
    if profile != "smoke":
        rates = _enclave_rates(found.model, images[:ENCLAVE_BATCH])
        record.samples(f"{row}/cpu_enclave/throughput_of_trained", rates, "images/s", higher_is_better=True)


def _enclave_rates(model: "torch.nn.Module", images: np.ndarray) -> list[float]:
    """Images a second of an attested session with a process enclave of this CPU, in float32."""
    image = build_image(compile_inference(model, len(images)))
    policy = QuotePolicy(measurements=frozenset({image.measurement}), root=SimulatedRoot.load_or_create().certificate)
    with launch(image) as enclave, enclave.connect(policy) as session:
        seconds = timing.interleave({"enclave": lambda: session.infer(images)}, rounds=5)["enclave"]
    return [len(images) / each for each in seconds]


def _share(path: str, right: int, count: int) -> None:
    interval = stats.proportion_interval(right, count)
    record.metric(path, right / count, "", nature="random", n=count, higher_is_better=True, interval=interval)


def competitors(profile: str) -> None:
    """Overheads that others report for their accelerators' memory protection."""
    for one in reported.OVERHEADS:
        _reported(f"inference/{one.name}/cycle_overhead", one)


STUDIES: dict[str, Callable[[str], None]] = {
    "published": published,
    "latency": latency,
    "bus_width": bus_width,
    "block_size": block_size,
    "designs": designs,
    "core": core,
    "attacks": attack,
    "monitor": monitor,
    "end_to_end": end_to_end,
    "competitors": competitors,
}
ROWS = (*NETWORKS, *STUDIES)


def _networks(profile: str) -> tuple[str, ...]:
    return ("resnet32",) if profile == "smoke" else NETWORKS


def _simulated(name: str, value: float, unit: str) -> None:
    # Modes protect different things, so none of them is "best" by its number alone.
    record.metric(name, value, unit, nature="deterministic", kind="simulated")


def _proved(name: str, value: int) -> None:
    record.metric(name, value, "", nature="deterministic")


def _reported(path: str, theirs: Reported) -> None:
    record.metric(path, theirs.value, theirs.unit, nature="deterministic", kind="reported", source=theirs.source)


def _overheads(path: str, report: CycleReport, baseline: CycleReport) -> None:
    cycles, traffic = report.overhead(baseline)
    _simulated(f"{path}/cycle_overhead", 100 * cycles, "%")
    _simulated(f"{path}/traffic_overhead", 100 * traffic, "%")
