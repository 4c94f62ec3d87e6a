"""The talk's CIFAR-10 table: VGG-9 and ResNet-32 trained in batches of 64, private and plain, privlib and its peers."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness, training
from benchmarks.cases import ModelName
from benchmarks.harness import Effort, Measured
from privlib.suite import record
from privlib.suite.stats import median

VERSION = "1"
BATCH_SIZE = 64
_MODELS: dict[str, ModelName] = {"vgg9": "vgg9", "resnet32": "resnet32"}
ROWS = tuple(_MODELS)
GROUPS = {"training": ("vgg9", "resnet32")}

# A step of a slow peer lasts seconds, so a round lasts ten; in `smoke` a small network and what starts fast.
EFFORTS = {"smoke": Effort(2, 0.01), "quick": Effort(7, 0.15), "full": Effort(15, 0.3)}
SMOKE_PEERS = ("opacus_ghost", "privlib_plain", "privlib_private", "pytorch_channels_last", "pytorch_eager")

FASTDP = "fastdp_stand_in"
FASTDP_SHARE = 0.37
FASTDP_SOURCE = (
    "fastDP (Bu et al., Book-Keeping, ICML 2023), not installed here: 0.37 of the fastest PyTorch float32 of this run, "
    "the share it reached on VGG-9 on two cores of a Zen 4 EPYC"
)


def run(profile: str, rows: Sequence[str]) -> None:
    """Measure `rows`: throughput and memory of each peer, and the ratios that the talk is about."""
    for row in rows if profile != "smoke" else ("small_cnn",):
        smoke = profile == "smoke"
        with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
            case = training.make_case(Path(folder), row, _MODELS.get(row, "small_cnn"), 8 if smoke else BATCH_SIZE)
            ratios(row, harness.compare(case, "training", EFFORTS[profile], SMOKE_PEERS if smoke else None))


def ratios(row: str, measured: Measured) -> None:
    """Record our speed over the others' and the price of privacy, each by rounds: what slows a round slows both."""
    rates, modules = dict(measured.throughput), measured.modules
    private_peers = [n for n in rates if getattr(modules[n], "PRIVATE", False) and not n.startswith("privlib")]
    pytorch = [n for n in rates if n.startswith("pytorch_") and modules[n].PRECISION == "float32"]
    fastest = max(pytorch, key=lambda name: median(rates[name]))
    private, plain = rates["privlib_private"], rates["privlib_plain"]
    _ratio(f"{row}/privlib_private/speedup_over_fastest_fp32_pytorch", private, rates[fastest])
    _ratio(f"{row}/privlib_plain/speedup_over_fastest_fp32_pytorch", plain, rates[fastest])
    _ratio(f"{row}/privlib_private/throughput_over_plain", private, plain)
    rates[FASTDP] = [FASTDP_SHARE * rate for rate in rates[fastest]]
    record.metric(
        f"{row}/{FASTDP}/throughput", median(rates[FASTDP]), "images/s",
        kind="reported", nature="timing", higher_is_better=True, source=FASTDP_SOURCE,
    )  # fmt: skip
    if any(name.startswith("opacus") for name in private_peers):
        rival = max([*private_peers, FASTDP], key=lambda name: median(rates[name]))
        _ratio(f"{row}/privlib_private/speedup_over_fastest_private_peer", private, rates[rival])
        record.note(f"{row}: the fastest float32 PyTorch is {fastest}, the fastest private peer {rival}")
    else:
        record.note(f"{row}: Opacus is not installed, so no speed over private peers is claimed")
    memory = measured.peak_bytes["privlib_private"] / measured.peak_bytes["privlib_plain"]
    record.metric(f"{row}/privlib_private/memory_over_plain", memory, "×", nature="memory", higher_is_better=False)
    for name, facts in measured.facts.items():
        if "planned_bytes" in facts:
            record.metric(
                f"{row}/{name}/planned_memory", facts["planned_bytes"], "bytes",
                nature="deterministic", higher_is_better=False,
            )  # fmt: skip


def _ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    pairs = zip(ours, theirs, strict=True)
    record.samples(name, [mine / other for mine, other in pairs], "×", higher_is_better=True)
