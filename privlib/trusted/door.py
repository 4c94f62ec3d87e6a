"""Where everything enters an enclave: requests in the clear, and channels that carry requests sealed.

message   fields    arrays   answer
hello               data     answer: channel; data     a handshake begins (`privlib.trusted.channel`)
finish    channel   data     result                    and ends: the channel is open
record    channel   data     record: data              a request within the channel, and its answer (or error) within it
leave     channel            result                    the channel's keys are dropped
quote               nonce    result: quote             who this is, for who asked with this nonce
other                                                  `privlib.trusted.service`, in the clear and from anybody

A channel gives its client secrecy; the host lets in whom it likes, and so is a client that proved no identity.
"""

from typing import Protocol

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.binding import NONCE_BYTES
from privlib.trusted.channel import Responder
from privlib.trusted.conversation import Conversation
from privlib.trusted.platform import Platform, identity_report_data
from privlib.trusted.protocol import Message
from privlib.trusted.requests import Answers, RequestError, array_of, bytes_in, takes

MAXIMUM_CHANNELS = 64


class Service(Protocol):
    """What a worker serves."""

    def answer(self, message: Message, client: bytes | None) -> Message:
        """client: the identity that the sender has proven, or None. Raises PrivlibError, MemoryError."""


class Door:
    """Channels by number, and the service behind them."""

    def __init__(self, service: Answers, platform: Platform) -> None:
        self._service, self._platform = service, platform
        self._begun: dict[int, Responder] = {}
        self._open: dict[int, tuple[Conversation, bytes | None]] = {}
        self._number = 0

    def answer(self, message: Message) -> Message:
        """Raises PrivlibError, MemoryError: what is refused in the clear."""
        if message.kind == "quote":
            takes(message, set(), {"nonce"})
            quote = self._platform.quote(identity_report_data(bytes_in(message, "nonce", NONCE_BYTES)))
            return Message("result", arrays={"quote": array_of(quote)})
        if message.kind == "hello":
            return self._hello(message)
        if message.kind in ("finish", "record", "leave"):
            number = message.fields.get("channel")
            takes(message, {"channel"}, set() if message.kind == "leave" else {"data"})
            if type(number) is not int or (number not in self._begun and number not in self._open):
                raise RequestError(f"there is no channel {number!r}; open one")
            handle = {"finish": self._finish, "record": self._record, "leave": self._leave}[message.kind]
            return handle(number, message)
        return self._service.answer(message, None)

    def _hello(self, message: Message) -> Message:
        takes(message, set(), {"data"})
        if len(self._begun) + len(self._open) >= MAXIMUM_CHANNELS:
            raise RequestError(f"{MAXIMUM_CHANNELS} channels are open; leave one")
        responder = Responder()
        data = responder.answer(self._platform.quote(responder.begin(bytes_in(message, "data"))))
        self._number += 1
        self._begun[self._number] = responder
        return Message("answer", {"channel": self._number}, {"data": array_of(data)})

    def _finish(self, number: int, message: Message) -> Message:
        if number not in self._begun:
            raise RequestError(f"channel {number} is open already")
        responder = self._begun.pop(number)
        sealer, opener = responder.finish(bytes_in(message, "data"))
        self._open[number] = (Conversation(sealer, opener), responder.client)
        return Message("result")

    def _record(self, number: int, message: Message) -> Message:
        if number not in self._open:
            raise RequestError(f"channel {number} is not open yet")
        records = message.arrays["data"]
        if records.dtype != np.uint8 or records.ndim != 1:
            raise RequestError("records are uint8 (n,)")
        conversation, client = self._open[number]
        try:
            request = conversation.open(records)
        except BaseException:
            del self._open[number]  # nothing more opens in it
            raise
        del records
        try:
            answer = self._service.answer(request, client)
        except (PrivlibError, MemoryError) as error:
            answer = refusal(error)
        return Message("record", arrays={"data": conversation.seal(answer)})

    def _leave(self, number: int, _: Message) -> Message:
        self._begun.pop(number, None)
        self._open.pop(number, None)
        return Message("result")


def refusal(error: PrivlibError | MemoryError) -> Message:
    """The answer to what was refused."""
    text = str(error) or "the request does not fit the memory that this enclave may use"
    return Message("error", {"type": type(error).__name__, "text": text})
