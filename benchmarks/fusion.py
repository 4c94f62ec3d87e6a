"""What fusion buys: the clipped sum of m examples by a loop, by instantiation, by ghost clipping, and fused: time,
memory and operators against m; and the share of the machine's peak that the fused step's kernels reach."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks import harness, kernels, training
from benchmarks.cases import Case, ModelName
from benchmarks.harness import Effort, Measured
from privlib.suite import record
from privlib.suite.stats import median

VERSION = "1"
ROWS = ("vgg9", "resnet32", "kernels")
_MODELS: dict[str, ModelName] = {"vgg9": "vgg9", "resnet32": "resnet32"}

OURS = ("privlib_plain", "privlib_private")
OTHERS = ("naive_loop", "opacus_ghost", "torch_func_vmap")
# Batch sizes m. The others take seconds a batch, and grow with m as the smaller ones show.
SIZES = {"smoke": (4, 8), "quick": (32, 64, 128), "full": (64, 128, 256, 512)}
OTHERS_UP_TO = {"smoke": 4, "quick": 64, "full": 256}
OUR_EFFORT = {"smoke": Effort(2, 0.01), "quick": Effort(9, 0.15), "full": Effort(15, 0.3)}
OTHERS_EFFORT = {"smoke": Effort(2, 0.01), "quick": Effort(3, 0.1), "full": Effort(3, 0.1)}
KERNEL_EFFORT = {"smoke": Effort(2, 0.01), "quick": Effort(5, 0.05), "full": Effort(15, 0.1)}


def run(profile: str, rows: Sequence[str]) -> None:
    """Measure `rows`: a network against m, or the kernels."""
    networks = [row for row in rows if row in _MODELS]
    for row in networks if profile != "smoke" else ["small_cnn"] * bool(networks):
        growth(row, {m: _batch(row, m, profile) for m in SIZES[profile]})
    if "kernels" in rows:
        found = kernels.convolutions("vgg9", 64) | kernels.convolutions("resnet32", 64)
        chosen = found if profile != "smoke" else {"conv_64_64_8x8": found["conv_64_64_8x8"]}
        kernels.measure(chosen, KERNEL_EFFORT[profile].rounds, KERNEL_EFFORT[profile].turn_seconds)


def growth(row: str, measured: Mapping[int, Measured]) -> None:
    """Record how private over plain changes from the smallest to the largest m, and what another example takes."""
    small, large = min(measured), max(measured)
    ratios = [median(_over_plain(measured[m])) for m in (small, large)]
    record.metric(
        f"{row}/privlib_private/time_over_plain_growth", ratios[1] / ratios[0], "×",
        nature="timing", higher_is_better=False,
    )  # fmt: skip
    peaks = {m: each.peak_bytes for m, each in measured.items()}
    memory = [peaks[m]["privlib_private"] / peaks[m]["privlib_plain"] for m in (small, large)]
    record.metric(
        f"{row}/privlib_private/memory_over_plain_growth", memory[1] / memory[0], "×",
        nature="memory", higher_is_better=False,
    )  # fmt: skip
    for name in (*OTHERS, *OURS):
        own = {m: each[name] for m, each in peaks.items() if name in each}
        if len(own) > 1:
            first, last = min(own), max(own)
            record.metric(
                f"{row}/{name}/memory_per_example", (own[last] - own[first]) / (last - first), "bytes",
                nature="memory", higher_is_better=False,
            )  # fmt: skip


def _batch(row: str, size: int, profile: str) -> Measured:
    """Everybody at one m: ours by themselves, so that their ratio is not disturbed by what needs gigabytes."""
    name = f"{row}_batch{size}"
    with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
        case = training.make_case(Path(folder), name, _MODELS.get(row, "small_cnn"), size, double=False)
        ours = harness.compare(case, "accumulation", OUR_EFFORT[profile], OURS)
        others = _others(case, profile)
    record.samples(f"{name}/privlib_private/time_over_plain", _over_plain(ours), "×", higher_is_better=False)
    memory = ours.peak_bytes["privlib_private"] / ours.peak_bytes["privlib_plain"]
    record.metric(f"{name}/privlib_private/memory_over_plain", memory, "×", nature="memory", higher_is_better=False)
    both = {**others.facts, **ours.facts} if others else ours.facts
    for peer, facts in both.items():
        record.metric(
            f"{name}/{peer}/operators", facts["operators"], "", nature="deterministic", higher_is_better=False
        )
    if others is None:
        return ours
    return Measured(
        others.throughput | ours.throughput,
        others.peak_bytes | ours.peak_bytes,
        both,
        others.modules | ours.modules,
    )


def _others(case: Case, profile: str) -> Measured | None:
    if case.batch_size > OTHERS_UP_TO[profile]:
        return None
    only: Collection[str] = OTHERS
    # Every example's gradient, once as it is made and once as it is clipped.
    needed = 2 * case.batch_size * sum(4 * parameter.numel() for parameter in case.model().parameters())
    if needed > psutil.virtual_memory().available:
        record.note(f"{case.row}: torch_func_vmap is left out, it needs {needed / 2**30:.1f} GiB for its gradients")
        only = [name for name in OTHERS if name != "torch_func_vmap"]
    return harness.compare(case, "accumulation", OTHERS_EFFORT[profile], only)


def _over_plain(measured: Measured) -> list[float]:
    """Time of an example, private over plain, by rounds."""
    rates = measured.throughput
    return [plain / private for plain, private in zip(rates["privlib_plain"], rates["privlib_private"], strict=True)]
