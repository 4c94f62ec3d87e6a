"""What a user does with a running enclave."""

import secrets
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.channel import Initiator
from privlib.enclave.datasets import EncryptedDataset
from privlib.enclave.delivery import deliver_key
from privlib.enclave.errors import EnclaveDied, EnclaveError, RequestRefused
from privlib.enclave.link import Link
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.release import Release
from privlib.enclave.verify import VerifiedQuote
from privlib.trusted.channel_errors import ChannelError
from privlib.trusted.conversation import MAXIMUM_PAYLOAD, Conversation
from privlib.trusted.epoch import TrainRequest
from privlib.trusted.protocol import MAXIMUM_HEAD, Message
from privlib.trusted.training_service import PURPOSE


@dataclass(frozen=True)
class Verifier:
    """How a client verifies quotes: its policy, and collateral and time as of `verify_quote`."""

    policy: QuotePolicy
    collateral: str | None
    now: float | None


class Session:
    """One user's conversation with an enclave, one request at a time; threads may share it. Made by `Enclave.connect`.

    verdict: of the quote that the enclave answered the handshake with; None for a session in the clear. Every method
    raises EnclaveDied at once where the enclave ends, RequestRefused where it refuses, and ChannelError where somebody
    meddles with the channel, which is closed then.
    """

    def __init__(
        self, link: Link, manifest: str, verifier: Verifier | None = None, identity: Ed25519PrivateKey | None = None
    ) -> None:
        """manifest: the image's, for releases; empty where the measurement is not its hash.

        Raises AttestationError, ChannelError.
        """
        self._link, self._manifest, self._verifier = link, manifest, verifier
        self._ended, self._turn = "", threading.Lock()
        self._channel: tuple[int, Conversation] | None = None
        self.verdict: VerifiedQuote | None = None
        if verifier is not None:
            self._open(verifier, identity)

    def _open(self, verifier: Verifier, identity: Ed25519PrivateKey | None) -> None:
        initiator = Initiator(identity=identity)
        answer = self._in_the_clear(Message("hello", arrays={"data": np.frombuffer(initiator.hello, np.uint8)}))
        number, data = answer.fields.get("channel", 0), _data(answer)
        try:
            finish, sealer, opener, self.verdict = initiator.verify(
                data.tobytes(), verifier.policy, verifier.collateral, verifier.now
            )
            arrays = {"data": np.frombuffer(finish, np.uint8)}
            self._in_the_clear(Message("finish", {"channel": number}, arrays))
        except BaseException:
            self._link.exchange(Message("leave", {"channel": number}))
            raise
        self._channel = (number, Conversation(sealer, opener))

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Logits of images float32 (B, *input_shape), or uint8 where the model was compiled with `pixels`, for any
        B ≥ 0; many are sent in several requests."""
        rows = rows_at_once(images)
        pieces = [images[start : start + rows] for start in range(0, max(len(images), 1), rows)]
        answers = [self.request(Message("infer", arrays={"images": piece})).arrays["logits"] for piece in pieces]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    def provision(self, key: bytes, dataset: EncryptedDataset) -> int:
        """Release a dataset to the enclave under the dataset's terms: the key is sealed to a quote that this session's
        policy accepts, the ciphertext goes from its file. key: 32 bytes, what it was encrypted with. Returns the number
        of examples.

        Raises EnclaveError for a session in the clear, AttestationError, KeyDeliveryError.
        """
        if self._verifier is None:
            raise EnclaveError("a key is given to an attested enclave alone; connect with a policy")
        nonce = secrets.token_bytes(32)
        offer = self.request(Message("offer", arrays={"nonce": np.frombuffer(nonce, np.uint8)}))
        terms = dataset.terms.encode()
        sealed, _ = deliver_key(
            key,
            offer.arrays["public_key"].tobytes(),
            offer.arrays["quote"].tobytes(),
            nonce,
            self._verifier.policy,
            purpose=PURPOSE,
            dataset=bytes.fromhex(dataset.digest),
            dataset_policy=terms,
            collateral=self._verifier.collateral,
            now=self._verifier.now,
        )
        self._link.datasets[dataset.digest] = dataset.path
        arrays = {"public_key": offer.arrays["public_key"], "sealed": np.frombuffer(sealed, np.uint8)}
        fields = {"dataset": dataset.digest, "terms": terms.decode(), "grant": ""}
        return int(self.request(Message("provision", fields, arrays)).fields["rows"])

    def train(self, request: TrainRequest) -> Release:
        """Train on datasets that their providers have released, and take the parameters with their certificate. The
        whole charge is sealed, stored and registered before the first update; nothing crosses the boundary from then
        until the last."""
        fields = {**vars(request), "datasets": list(request.datasets)}
        answer = self.request(Message("train", fields))
        collateral = self._verifier.collateral if self._verifier else None
        return Release(answer, collateral, self._manifest)

    def status(self) -> dict[str, Any]:
        """busy: what it works on ("" for nothing), seconds: for how long. When it is not busy also rows: of every
        dataset inside; updates: made; served: requests; frames_in, frames_out, bytes_in, bytes_out, system_calls: what
        crossed the boundary until now, and by how many calls; host_calls: what the enclave has asked of its host."""
        if busy := self._link.busy:
            return {"busy": busy[0], "seconds": busy[1]}
        return {"busy": "", "seconds": 0.0, **self.request(Message("status")).fields}

    def cancel(self) -> None:
        """Stop the training under way after its current update: `train` raises RequestRefused of type CancelledError.
        What was charged stays charged."""
        self._link.cancel()

    def close(self) -> None:
        """End the session; the enclave goes on. May be called twice, and after it died."""
        if self._ended:
            return
        self._ended = "the session was closed"
        if self._channel is not None:
            try:
                self._link.exchange(Message("leave", {"channel": self._channel[0]}))
            except EnclaveDied:
                return  # it has ended already

    def request(self, message: Message) -> Message:
        """Send a message and take the answer."""
        if self._ended:
            raise EnclaveDied(f"{self._ended}; connect again")
        if self._channel is None:
            return self._in_the_clear(message)
        number, conversation = self._channel
        with self._turn:
            sealed = Message("record", {"channel": number}, {"data": conversation.seal(message)})
            try:
                answer = self._in_the_clear(sealed, message.kind)
                opened = conversation.open(_data(answer))
            except BaseException as error:  # whatever came next would be out of order
                self._ended = str(error) if isinstance(error, EnclaveDied) else "the channel broke off"
                raise
        return _refused(opened)

    def _in_the_clear(self, message: Message, what: str = "") -> Message:
        return _refused(self._link.exchange(message, what))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _data(answer: Message) -> np.ndarray:
    """What an answer carries for the channel. Raises ChannelError."""
    found = answer.arrays.get("data")
    if found is None or found.dtype != np.uint8 or found.ndim != 1 or type(answer.fields.get("channel", 0)) is not int:
        raise ChannelError(f"the host answers with {answer.kind[:40]!r}, which is no part of the channel")
    return found


def _refused(answer: Message) -> Message:
    if answer.kind == "error":
        raise RequestRefused(answer.fields["type"], answer.fields["text"])
    return answer


def rows_at_once(images: np.ndarray) -> int:
    """How many rows fit one message."""
    row = images[:1].nbytes or images.itemsize * int(np.prod(images.shape[1:]))
    return max((MAXIMUM_PAYLOAD - 2 * MAXIMUM_HEAD) // max(row, 1), 1)
