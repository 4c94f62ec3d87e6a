"""The requests a worker answers, each checked in every part before it has an effect.

request    fields                                                       arrays             answer
infer                                                                   images             result: logits
offer                                                                   nonce              result: public_key, quote
provision  dataset, terms, grant ("" for none)                          public_key, sealed result: rows
session    chain, registry                                                                 result: address; quote
job        job                                                                             output, see TrainingService
train      datasets, steps, sample_rate, physical_batches, learning_rate                   release
status                                                                                     result: see Service.status

Anything else, and anything more or less, is answered with an error: {"type", "text"}.
"""

from collections.abc import Mapping
from typing import Any

from privlib.trusted.epoch import TrainRequest
from privlib.trusted.host import Host
from privlib.trusted.inbox import Inbox
from privlib.trusted.model import CompiledModel
from privlib.trusted.platform import Platform
from privlib.trusted.protocol import Message, Stream
from privlib.trusted.requests import Handlers, RequestError, array_of, bytes_in, dispatch, text_in
from privlib.trusted.training import TrainingStep
from privlib.trusted.training_service import TrainingService, digest_text

_COUNTS = ("frames_in", "frames_out", "bytes_in", "bytes_out", "system_calls")


class Service:
    """State of a worker: what it loaded, and how much it did."""

    def __init__(
        self,
        loaded: CompiledModel | TrainingStep,
        stream: Stream,
        inbox: Inbox,
        host: Host,
        platform: Platform,
        configuration: Mapping[str, Any],
    ) -> None:
        self._loaded, self._stream, self._host = loaded, stream, host
        self._trainer: TrainingService | None = None
        if isinstance(loaded, TrainingStep):
            self._trainer = TrainingService(loaded, host, platform, inbox, configuration["dataset_bytes"])
        self._served = 0
        self._handlers: Handlers = {
            "infer": (self._infer, set(), {"images"}),
            "offer": (self._offer, set(), {"nonce"}),
            "provision": (self._provision, {"dataset", "terms", "grant"}, {"public_key", "sealed"}),
            "train": (
                self._train, {"datasets", "steps", "sample_rate", "physical_batches", "learning_rate"}, set(),
            ),
            "session": (self._session, {"chain", "registry"}, set()),
            "job": (self._job, {"job"}, set()),
            "status": (self._status, set(), set()),
        }  # fmt: skip

    def answer(self, message: Message, client: bytes | None) -> Message:
        """client: the identity that the sender has proven, or None. Raises PrivlibError, MemoryError."""
        answered = dispatch(self._handlers, message, client)
        self._served += 1
        return answered

    def _infer(self, message: Message, _: bytes | None) -> Message:
        if not isinstance(self._loaded, CompiledModel):
            raise RequestError("this enclave trains; build an image of an inference artifact to infer")
        return Message("result", arrays={"logits": self._loaded.run(message.arrays["images"])})

    def _offer(self, message: Message, _: bytes | None) -> Message:
        key, quote = self._training().offer(bytes_in(message, "nonce", 32))
        return Message("result", arrays={"public_key": array_of(key), "quote": array_of(quote)})

    def _provision(self, message: Message, _: bytes | None) -> Message:
        terms, grant = text_in(message, "terms").encode(), text_in(message, "grant").encode()
        key, sealed = bytes_in(message, "public_key", 32), bytes_in(message, "sealed")
        rows = self._training().provision(key, sealed, digest_text(message.fields["dataset"]), terms, grant)
        return Message("result", {"rows": rows})

    def _session(self, message: Message, _: bytes | None) -> Message:
        address, quote = self._training().session(message.fields["chain"], text_in(message, "registry"))
        return Message("result", {"address": address}, {"quote": array_of(quote)})

    def _job(self, message: Message, _: bytes | None) -> Message:
        return self._training().job(digest_text(message.fields["job"]))

    def _train(self, message: Message, client: bytes | None) -> Message:
        training, names = self._training(), message.fields["datasets"]
        if not isinstance(names, list):
            raise RequestError("datasets are a list")
        return training.train(TrainRequest(**{**message.fields, "datasets": tuple(names)}), client)

    def _training(self) -> TrainingService:
        if self._trainer is None:
            raise RequestError("this enclave infers; build an image of a training artifact to train")
        return self._trainer

    def _status(self, _: Message, __: bytes | None) -> Message:
        """rows: of every dataset that is here; updates: made so far; served: requests before this one; frames, bytes
        and system calls by which they crossed the boundary, this request included; host_calls: what the enclave asked
        of its host."""
        updates = self._loaded.steps if isinstance(self._loaded, TrainingStep) else 0
        counts = {name: getattr(self._stream, name) for name in _COUNTS}
        counts["host_calls"] = self._host.calls
        rows = self._trainer.rows if self._trainer else {}
        return Message("result", {"rows": rows, "updates": updates, "served": self._served, **counts})
