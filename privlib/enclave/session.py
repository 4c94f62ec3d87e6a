"""What a user does with a running enclave."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from privlib.enclave.errors import EnclaveDied, EnclaveError, RequestRefused
from privlib.trusted.protocol import MAXIMUM_FRAME, MAXIMUM_HEAD, ClosedError, Message, Transport, decode, encode


@dataclass(frozen=True)
class Release:
    """What leaves an enclave after training. parameters: as `TrainingStep.parameters()`; event: what is to be accounted
    (mechanism, steps, sample_rate, maximum_batch, noise_multiplier, max_grad_norm, expected_batch_size, neighbours)."""

    parameters: Mapping[str, np.ndarray]
    event: Mapping[str, Any]


class Session:
    """One user's conversation with an enclave, one request at a time; threads may share it.

    Every method raises EnclaveDied at once where the enclave ends, RequestRefused where it refuses.
    """

    def __init__(self, transport: Transport, death: Callable[[], str], turn: "threading.Lock | None" = None) -> None:
        """turn: shared by the sessions of one transport."""
        self._transport, self._death = transport, death
        self._turn = turn or threading.Lock()
        self._ended = ""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Logits of images float32 (B, *input_shape) for any B ≥ 0; many are sent in several requests."""
        rows = rows_at_once(images)
        pieces = [images[start : start + rows] for start in range(0, max(len(images), 1), rows)]
        answers = [self.request(Message("infer", arrays={"images": piece})).arrays["logits"] for piece in pieces]
        return np.concatenate(answers)

    def load(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Give the enclave a dataset to train on: images float32 (N, *input_shape), labels int64 (N,)."""
        rows, total = rows_at_once(images), len(images)
        for start in range(0, max(total, 1), rows):
            arrays = {"images": images[start : start + rows], "labels": labels[start : start + rows]}
            self.request(Message("load", {"start": start, "total": total}, arrays))

    def train(
        self, steps: int, sample_rate: float, physical_batches: int, learning_rate: float | None = None
    ) -> Release:
        """`steps` updates on the loaded dataset: each takes every example with chance `sample_rate`, and runs
        `physical_batches` batches of the artifact's size whatever was drawn; a sample that is larger is cut (then the
        event's `maximum_batch` counts). Nothing crosses the boundary meanwhile."""
        asked = {"steps": steps, "sample_rate": sample_rate, "physical_batches": physical_batches}
        answer = self.request(Message("train", {**asked, "learning_rate": learning_rate}))
        return Release(answer.arrays, answer.fields["event"])

    def status(self) -> dict[str, int]:
        """rows: of the dataset inside; updates: made; served: requests; frames_in, frames_out, bytes_in, bytes_out:
        what crossed the boundary until now."""
        return dict(self.request(Message("status")).fields)

    def close(self) -> None:
        """Ask the enclave to end. May be called twice, and after it died."""
        if not self._ended:
            try:
                self.request(Message("close"))
            except EnclaveError:
                return  # it has ended already
            self._ended = "it was closed"

    def request(self, message: Message) -> Message:
        """Send a message and take the answer."""
        with self._turn:
            if self._ended:
                raise EnclaveDied(f"the enclave is gone: {self._ended}; launch another one")
            with contextlib.suppress(ClosedError):  # it may have said why before it ended
                self._transport.send(encode(message))
            try:
                answer = decode(self._transport.receive())
            except ClosedError:
                self._ended = self._death()
                raise EnclaveDied(f"the enclave ended during {message.kind!r}: {self._ended}") from None
        if answer.kind == "error":
            raise RequestRefused(answer.fields["type"], answer.fields["text"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def rows_at_once(images: np.ndarray) -> int:
    """How many rows fit one frame, label included."""
    row = images[:1].nbytes or images.itemsize * int(np.prod(images.shape[1:]))
    return max((MAXIMUM_FRAME - MAXIMUM_HEAD) // max(row + 8, 1), 1)
