"""The requests a worker answers, each checked in every part before it has an effect.

request     fields                                              arrays                   answer
infer                                                           images                   result: logits
load        start, total: rows                                  images, labels           result
train       steps, sample_rate, physical_batches, learning_rate                          release: event; parameters
status                                                                                   result: see Service.status
report                                                          data uint8 (64,)         result: report_data, quote
close                                                                                    result; then the worker ends

Anything else, and anything more or less, is answered with an error: {"type", "text"}. A frame over the limit is
answered and ends the worker, since nobody can say where the next one begins.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.epoch import EpochRequest, run_epoch
from privlib.trusted.model import CompiledModel, InputError
from privlib.trusted.protocol import ClosedError, Message, ProtocolError, Stream, Transport, decode, encode
from privlib.trusted.training import TrainingStep

REPORT_DATA_BYTES = 64


class RequestError(PrivlibError):
    """A request that this worker does not know, or whose fields or arrays are not what it takes."""


class Service:
    """State of a worker: what it loaded, its dataset, how much it did."""

    def __init__(
        self, loaded: CompiledModel | TrainingStep, stream: Stream, configuration: Mapping[str, Any], device: str | None
    ) -> None:
        self._loaded, self._stream, self._configuration = loaded, stream, configuration
        self._device = Path(device) if device else None
        self._images = self._labels = np.empty(0)
        self._rows = 0
        self._served = 0
        self.closed = False
        self._handlers: dict[str, tuple[Callable[[Message], Message], set[str], set[str]]] = {
            "infer": (self._infer, set(), {"images"}),
            "load": (self._load, {"start", "total"}, {"images", "labels"}),
            "train": (self._train, {"steps", "sample_rate", "physical_batches", "learning_rate"}, set()),
            "status": (self._status, set(), set()),
            "report": (self._report, set(), {"data"}),
            "close": (self._close, set(), set()),
        }

    def answer(self, message: Message) -> Message:
        """Raises PrivlibError, MemoryError."""
        if message.kind not in self._handlers:
            raise RequestError(f"{message.kind[:40]!r} is no request; there are {', '.join(self._handlers)}")
        handle, fields, arrays = self._handlers[message.kind]
        if set(message.fields) != fields or set(message.arrays) != arrays:
            wanted = ", ".join(sorted(fields | arrays)) or "nothing"
            raise RequestError(f"{message.kind} takes {wanted}, and all of it; look at what was sent")
        answered = handle(message)
        self._served += 1
        return answered

    def _infer(self, message: Message) -> Message:
        if not isinstance(self._loaded, CompiledModel):
            raise RequestError("this enclave trains; build an image of an inference artifact to infer")
        return Message("result", arrays={"logits": self._loaded.run(message.arrays["images"])})

    def _load(self, message: Message) -> Message:
        step, images, labels = self._trainer(), message.arrays["images"], message.arrays["labels"]
        start, total = message.fields["start"], message.fields["total"]
        shape = ((step.augmentations,) if step.augmentations > 1 else ()) + step.input_shape
        if images.dtype != np.float32 or images.shape[1:] != shape or labels.dtype != np.int64:
            raise InputError(f"a dataset has images float32 (n, {', '.join(map(str, shape))}) and labels int64 (n,)")
        if labels.shape != (len(images),):
            raise InputError("there must be a label for every image")
        if step.num_classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < step.num_classes:
            raise InputError(f"labels must lie from 0 to {step.num_classes - 1}")  # which did not is private
        if type(start) is not int or type(total) is not int or start not in (0, self._rows):
            raise RequestError(f"rows come in order: the next is row {self._rows}, or row 0 to begin anew")
        if not start + len(images) <= total or 4 * total * math.prod(shape) > self._configuration["dataset_bytes"]:
            raise RequestError(
                f"a dataset of {total} rows does not fit {self._configuration['dataset_bytes']} bytes, or not its rows"
            )
        if start == 0:
            self._images, self._labels = np.empty((total, *shape), np.float32), np.empty(total, np.int64)
        if total != len(self._images):
            raise RequestError(f"the dataset was begun with {len(self._images)} rows; begin anew to change that")
        self._rows = start + len(images)
        self._images[start : self._rows], self._labels[start : self._rows] = images, labels
        return Message("result")

    def _train(self, message: Message) -> Message:
        step, request = self._trainer(), EpochRequest(**message.fields)
        if not self._rows or self._rows != len(self._images):
            raise RequestError(f"{self._rows} of {len(self._images)} rows are here; load the dataset first")
        event = run_epoch(step, self._images, self._labels, request)
        return Message("release", {"event": event}, step.parameters())

    def _trainer(self) -> TrainingStep:
        if not isinstance(self._loaded, TrainingStep):
            raise RequestError("this enclave infers; build an image of a training artifact to train")
        return self._loaded

    def _status(self, _: Message) -> Message:
        """rows: of the dataset that are here; updates: made so far; served: requests before this one; frames and bytes:
        what crossed the boundary, this request included."""
        updates = self._loaded.steps if isinstance(self._loaded, TrainingStep) else 0
        counts = {name: getattr(self._stream, name) for name in ("frames_in", "frames_out", "bytes_in", "bytes_out")}
        return Message("result", {"rows": self._rows, "updates": updates, "served": self._served, **counts})

    def _report(self, message: Message) -> Message:
        data = message.arrays["data"]
        if data.dtype != np.uint8 or data.shape != (REPORT_DATA_BYTES,):
            raise RequestError(f"report data are uint8 ({REPORT_DATA_BYTES},), got {data.dtype} {data.shape}")
        arrays = {"report_data": data}
        if self._device:  # Gramine's files: what is written to the one is in the quote read from the other
            (self._device / "user_report_data").write_bytes(data.tobytes())
            arrays["quote"] = np.frombuffer((self._device / "quote").read_bytes(), np.uint8)
        return Message("result", arrays=arrays)

    def _close(self, _: Message) -> Message:
        self.closed = True
        return Message("result")


def serve(transport: Transport, service: Service) -> None:
    """Answer until the other end is gone or asks to close; ends the process."""
    while not service.closed:
        try:
            payload = transport.receive()
        except ClosedError:
            os._exit(0)
        except ProtocolError as error:
            transport.send(encode(_refusal(error)))
            os._exit(os.EX_PROTOCOL)
        try:
            answer = encode(service.answer(decode(payload)))
            del payload
            transport.send(answer)
        except ClosedError:
            os._exit(0)
        except (PrivlibError, MemoryError) as error:
            transport.send(encode(_refusal(error)))
    os._exit(0)


def _refusal(error: PrivlibError | MemoryError) -> Message:
    text = str(error) or "the request does not fit the memory that this enclave may use"
    return Message("error", {"type": type(error).__name__, "text": text})
