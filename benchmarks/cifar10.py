"""The talk's CIFAR-10 table: VGG-9 and ResNet-32 trained in batches of 64, MobileNet asked at 32 and 224 pixels;
private and plain, in an enclave and outside, beside PyTorch and the other libraries for private training.

What goes into an enclave goes in encrypted and over an attested channel, and a release with its certificate comes out;
charging the ledger is part of an epoch's time. "Plain in the enclave" is a plain step under terms without a limit: its
certificate states that no ε bounds it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness, inference, reported, training
from benchmarks.cases import Case, ModelName
from benchmarks.harness import Effort, Measured
from privlib.suite import record
from privlib.suite.stats import median

VERSION = "2"
BATCH_SIZE = 64
_MODELS: dict[str, ModelName] = {"vgg9": "vgg9", "resnet32": "resnet32"}
GROUPS = {"training": ("vgg9", "resnet32"), "inference": ("mobilenet32", "mobilenet224")}
ROWS = (*GROUPS["training"], *GROUPS["inference"])

# A step of a slow peer lasts seconds, so a round lasts ten; in `smoke` a small network and what starts fast.
EFFORTS = {"smoke": Effort(2, 0.01), "quick": Effort(5, 0.15), "full": Effort(15, 0.3)}
# Batches that an enclave is asked for at once: updates of an epoch, and what one message holds of images.
UPDATES = {"smoke": 2, "quick": 16, "full": 96}
ASKED = {"mobilenet32": 16, "mobilenet224": 1}
SMOKE_PEERS = (
    "opacus_ghost", "privlib_plain", "privlib_plain_enclave", "privlib_private", "privlib_private_enclave",
    "pytorch_channels_last", "pytorch_eager",
)  # fmt: skip
SMOKE_INFERENCE = ("privlib", "privlib_enclave", "pytorch_channels_last", "pytorch_eager")

FASTDP = "fastdp_stand_in"
FASTDP_SHARE = 0.37
FASTDP_SOURCE = (
    "fastDP (Bu et al., Book-Keeping, ICML 2023), not installed here: 0.37 of the fastest PyTorch float32 of this run, "
    "the share it reached on VGG-9 on two cores of a Zen 4 EPYC"
)


def run(profile: str, rows: Sequence[str]) -> None:
    """Measure `rows`: throughput and memory of each peer, the ratios of the talk, and what an epoch costs."""
    smoke = profile == "smoke"
    wanted = {group: [row for row in rows if row in members] for group, members in GROUPS.items()}
    for row in wanted["training"][: 1 if smoke else None]:
        name = "small_cnn" if smoke else row
        with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
            size = 8 if smoke else BATCH_SIZE
            model = _MODELS.get(name, "small_cnn")
            case = training.make_case(Path(folder), name, model, size, batches=UPDATES[profile])
            measured = harness.compare(case, "training", EFFORTS[profile], SMOKE_PEERS if smoke else None)
        ratios(name, measured)
        inside(case, measured, {"privlib_private": "privlib_private_enclave", "privlib_plain": "privlib_plain_enclave"})
        reported.epoch(name, measured.throughput)
    for row in wanted["inference"][: 1 if smoke else None]:
        name = "small_cnn" if smoke else row
        with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
            size, batches = (8, 2) if smoke else (BATCH_SIZE, ASKED[row])
            case = inference.make_case(Path(folder), f"{name}_inference" if smoke else name, name, size, batches)
            measured = harness.compare(case, "inference", EFFORTS[profile], SMOKE_INFERENCE if smoke else None)
        over_pytorch(case.row, measured, ("privlib", "privlib_enclave"))
        inside(case, measured, {"privlib": "privlib_enclave"})
    if not smoke:
        reported.others(rows)


def ratios(row: str, measured: Measured) -> None:
    """Record our speed over the others' and the price of privacy, each by rounds: what slows a round slows both."""
    rates, modules = dict(measured.throughput), measured.modules
    private_peers = [n for n in rates if getattr(modules[n], "PRIVATE", False) and not n.startswith("privlib")]
    fastest = over_pytorch(row, measured, [name for name in rates if name.startswith("privlib_")])
    private, plain = rates["privlib_private"], rates["privlib_plain"]
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
    compiled(row, measured)


def over_pytorch(row: str, measured: Measured, ours: Sequence[str]) -> str:
    """Record the speed of `ours` over the fastest PyTorch without privacy, in float32 and, where it ran, in bfloat16;
    returns the name of the first."""
    fastest = {}
    for name, precision in (("fp32", "float32"), ("bf16", "bfloat16")):
        peers = [
            peer
            for peer in measured.throughput
            if peer.startswith("pytorch_") and precision == measured.modules[peer].PRECISION
        ]
        if peers:
            fastest[name] = max(peers, key=lambda peer: median(measured.throughput[peer]))
    for name, peer in fastest.items():
        for own in ours:
            path = f"{row}/{own}/speedup_over_fastest_{name}_pytorch"
            _ratio(path, measured.throughput[own], measured.throughput[peer])
    return fastest["fp32"]


def inside(case: Case, measured: Measured, twins: dict[str, str]) -> None:
    """Record what being inside costs the same artifact, its launch, and what crossed the enclave's boundary."""
    row = case.row
    for outside, name in twins.items():
        path, facts = f"{row}/{name}", measured.facts[name]
        _ratio(f"{path}/throughput_over_outside", measured.throughput[name], measured.throughput[outside])
        for quantity, unit in {"launch_seconds": "s", "mapped_code_bytes": "bytes"}.items():
            nature = "timing" if unit == "s" else "memory"
            record.metric(f"{path}/{quantity}", facts[quantity], unit, nature=nature, higher_is_better=False)  # type: ignore[arg-type]  # one of the natures
        for quantity in ("host_calls", "system_calls", "bytes_in", "bytes_out"):
            text = f"{path}/{quantity}_per_request"
            record.metric(text, facts[quantity], "", nature="timing", higher_is_better=False)
    record.note(
        f"{row}: a request to an enclave is {case.batches} batches of {case.batch_size}, encrypted input included; "
        "memory inside is the worker's peak since its launch"
    )


def compiled(row: str, measured: Measured) -> None:
    """Record how long compiling took, and the memory that was planned."""
    for name, facts in measured.facts.items():
        if "planned_bytes" in facts:
            record.metric(
                f"{row}/{name}/planned_memory", facts["planned_bytes"], "bytes",
                nature="deterministic", higher_is_better=False,
            )  # fmt: skip
        if "compile_seconds" in facts:
            text = f"{row}/{name}/compile_time"
            record.metric(text, facts["compile_seconds"], "s", nature="timing", higher_is_better=False)


def _ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    pairs = zip(ours, theirs, strict=True)
    record.samples(name, [mine / other for mine, other in pairs], "×", higher_is_better=True)
