"""What the peers in an enclave share: another peer's artifact, in an enclave of this process's own, asked over an
attested channel.

A run is a whole request: its encrypted input goes in, and what may come out comes out. Training takes a provider's
dataset each time, as many examples as the run works on, charges its ledger, and ends with a release.
"""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _privlib
from privlib.enclave import (
    EnclaveImage,
    QuotePolicy,
    Release,
    SimulatedRoot,
    StateStore,
    Terms,
    TrainRequest,
    build_image,
    encrypt_examples,
    launch,
)
from privlib.errors import PrivlibError

_PROGRAM = "artifact/manifest.json"
_COUNTED = ("host_calls", "system_calls", "bytes_in", "bytes_out")


def image_of(case: Case, artifact: str) -> EnclaveImage:
    """The image of the artifact that a peer compiles."""
    return build_image(_privlib.exported(case, artifact))


class Inside:
    """An enclave with a session, and what a run does there."""

    def __init__(self, case: Case, artifact: str, peer: str, image: EnclaveImage | None = None) -> None:
        """artifact: the peer that compiles it; peer: this one's name; image: where it was built before."""
        self.image = image or image_of(case, artifact)
        policy = QuotePolicy(
            measurements=frozenset({self.image.measurement}), root=SimulatedRoot.load_or_create().certificate
        )
        self.enclave = launch(self.image, state=StateStore(case.folder / f"state-{peer.rsplit('.', 1)[-1]}"))
        self.session = self.enclave.connect(policy)
        self.runs = 0
        self.before = self.session.status()

    def crossings(self) -> dict[str, float]:
        """Of one run, on average: calls to the host, system calls, bytes in and out."""
        after = self.session.status()
        return {name: (after[name] - self.before[name]) / max(self.runs, 1) for name in _COUNTED}


class InferenceRun(Inside):
    """Asks for the logits of images, as pixels uint8 (n, *input_shape)."""

    def __init__(self, case: Case, artifact: str, peer: str, image: EnclaveImage | None = None) -> None:
        super().__init__(case, artifact, peer, image)
        self._images = np.concatenate([case.pixels()] * case.batches)

    def __call__(self) -> np.ndarray:
        self.runs += 1
        return self.session.infer(self._images)


class TrainingRun(Inside):
    """Trains `case.batches` updates of one physical batch, on a dataset of as many images as that runs through."""

    def __init__(self, case: Case, artifact: str, peer: str) -> None:
        super().__init__(case, artifact, peer)
        images, labels = (np.concatenate([each] * case.batches) for each in (case.input(), case.labels()))
        self._key = secrets.token_bytes(32)
        path = case.folder / f"dataset-{peer.rsplit('.', 1)[-1]}"
        self._dataset = encrypt_examples(path, images, labels, self._key, Terms(None))
        self._request = TrainRequest((self._dataset.digest,), case.batches, case.batch_size / len(images), 1)

    def __call__(self) -> None:
        self.runs += 1
        self.provision()
        self.train(self._request.steps)

    def provision(self) -> None:
        """The provider's part: key and ciphertext go in."""
        self.session.provision(self._key, self._dataset)

    def train(self, steps: int) -> Release:
        """Updates on what is there."""
        release = self.session.train(replace(self._request, steps=steps))
        if release.claims["program"] != self.image.file(_PROGRAM).sha256:
            raise PrivlibError("the release is of another program than the image's")
        return release


def inference(case: Case, artifact: str, peer: str) -> Prepared:
    """Logits of `case.batches` batches in one request."""
    run = InferenceRun(case, artifact, peer)
    return Prepared({"output": run()[: case.batch_size]}, run, case.batches)


def training(case: Case, artifact: str, peer: str) -> Prepared:
    """An epoch of `case.batches` updates, from the key's delivery to the release.

    No interface of an enclave shows a gradient, so what is compared is the same artifact's outside; every release
    names the program that it is of.
    """
    outside = _privlib.compiled(case, artifact)
    found = _privlib.agreement(outside, case)
    del outside
    return Prepared(found, TrainingRun(case, artifact, peer), case.batches)


def facts(run: Any) -> dict[str, float]:
    """Crossings of one run, seconds of the launch, and what is mapped."""
    own = [file for file in run.enclave.report.mapped if not file.name.startswith(("host/", "python/"))]
    code = sum(file.size for file in own if file.name != "artifact/parameters.bin")
    return {**run.crossings(), "launch_seconds": run.enclave.report.seconds, "mapped_code_bytes": code}


def peak_bytes(run: object) -> int:
    """Peak resident memory of the worker since its launch: nobody else may reset what Linux counts for it."""
    peaks = []
    for process in psutil.Process().children(recursive=True):  # the worker, and what waits for its end
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        peaks += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    return max(peaks)
