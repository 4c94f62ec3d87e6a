"""The enclave's cost: the same artifact inside and outside, from launch to the first answer, certificates, the channel,
what crosses the boundary, what is mapped; and what SGX would add, modelled.

Every request to the enclave carries its encrypted input: images over the channel, or a provider's dataset in storage
format with its key. Inside an epoch of training nothing crosses.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import attestation, cifar10, harness, inference, training
from benchmarks.cases import Case, ModelName
from benchmarks.harness import Effort
from benchmarks.peers import _enclave
from privlib.enclave import SgxCosts, SimulatedRoot, modelled_cost
from privlib.suite import record

VERSION = "1"
ROWS = ("vgg9", "mobilenet32", "mobilenet224", "channel")
EFFORTS = {"smoke": Effort(2, 0.01), "quick": Effort(5, 0.3), "full": Effort(15, 0.3)}
UPDATES = {"smoke": 2, "quick": 96, "full": 782}  # of an epoch; 782 batches of 64 are CIFAR-10
REFERENCE = "pytorch_eager"  # whose logits both must give
LAUNCHES = {"smoke": 1, "quick": 5, "full": 15}


def run(profile: str, rows: Sequence[str]) -> None:
    """Measure `rows`; in `smoke` with a small network in place of the others."""
    small = profile == "smoke"
    for row in rows:
        with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
            if row == "channel":
                size = attestation.MEGABYTES[profile] << 20
                attestation.channel(attestation.REPETITIONS[profile], size)
                attestation.storage(attestation.REPETITIONS[profile], size)
            elif row == "vgg9":
                model: ModelName = "small_cnn" if small else "vgg9"
                size = 8 if small else 64
                _train(training.make_case(Path(folder), row, model, size, batches=UPDATES[profile]), profile)
            else:
                size, batches = (8, 2) if small else (64, cifar10.ASKED[row])
                name = "small_cnn" if small else row
                _infer(inference.make_case(Path(folder), row, name, size, batches), profile)


def _train(case: Case, profile: str) -> None:
    """Epochs inside and outside; then from an update to its certificate, and its verification elsewhere."""
    twins = {"privlib_private": "privlib_private_enclave"}
    measured = harness.compare(case, "training", EFFORTS[profile], [*twins, *twins.values()])
    cifar10.compiled(case.row, measured)
    cifar10.inside(case, measured, twins)
    run = _enclave.TrainingRun(case, "benchmarks.peers.privlib_private", "certificate")
    with run.enclave, tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
        root = Path(folder, "root.der")
        root.write_bytes(SimulatedRoot.load_or_create().certificate)
        run.provision()
        run.train(steps=1)
        issued, verified = [], []
        for number in range(LAUNCHES[profile]):
            begin = time.perf_counter()
            release = run.train(steps=1)
            issued.append(time.perf_counter() - begin)
            path = release.save(Path(folder, f"{number}.release"))
            command = [sys.executable, "-m", "privlib.suite.cli", "verify-release", str(path), "--root", str(root)]
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            verified.append(time.perf_counter() - begin)
        record.enclave(measurement=run.enclave.measurement.hex(), platform=run.enclave.report.platform)
        _listed(case.row, run)
    text = f"{case.row}/privlib_private_enclave"
    record.samples(f"{text}/one_update_and_certificate", issued, "s", higher_is_better=False)
    record.samples(f"{text}/verification_by_another_process", verified, "s", higher_is_better=False)
    record.note(f"{case.row}: the certificate's time is an upper bound: it holds the charge and one update as well")
    peak = int(measured.facts["privlib_private"]["planned_bytes"] + case.input().nbytes * case.batches)
    _modelled(f"{case.row}/sgx_epoch", measured.facts["privlib_private_enclave"], peak, case.batches)


def _infer(case: Case, profile: str) -> None:
    """Requests inside and outside; launches, each until its first attested answer."""
    measured = harness.compare(case, "inference", EFFORTS[profile], ["privlib", "privlib_enclave", REFERENCE])
    cifar10.compiled(case.row, measured)
    cifar10.inside(case, measured, {"privlib": "privlib_enclave"})
    image = _enclave.image_of(case, "benchmarks.peers.privlib")
    first = replace(case, batches=1)
    seconds = []
    for _ in range(LAUNCHES[profile]):
        begin = time.perf_counter()
        run = _enclave.InferenceRun(first, "benchmarks.peers.privlib", "launch", image)
        with run.enclave:
            run()
            seconds.append(time.perf_counter() - begin)
    _listed(case.row, run)
    record.samples(f"{case.row}/privlib_enclave/launch_to_first_answer", seconds, "s", higher_is_better=False)


def _listed(row: str, run: _enclave.Inside) -> None:
    """Every file mapped beside Python's, its data aside."""
    for file in run.enclave.report.mapped:
        if not file.name.startswith(("host/", "python/")) and file.executable:
            name = file.name.rsplit("/", 1)[-1].lower().replace("+", "p")
            record.metric(f"{row}/mapped_{name}/size", file.size, "bytes", nature="memory", higher_is_better=False)


def _modelled(path: str, crossed: Mapping[str, float], peak: int, passes: int) -> None:
    """What SGX would add to an epoch, at least and at most, by what crossed in the epochs that were measured."""
    counted = {name: round(crossed[name]) for name in ("system_calls", "bytes_in", "bytes_out")}
    cost = modelled_cost(dict.fromkeys(counted, 0), counted, peak, passes, SgxCosts())
    for part in ("transitions", "copies", "paging", "total"):
        seconds = getattr(cost, part)
        for name, value in (("least", seconds.least), ("most", seconds.most)):
            record.metric(f"{path}/{part}_{name}", value, "s", kind="modelled", nature="timing", higher_is_better=False)
