"""The worker's incoming frames: in order, whichever thread reads them, and a word to stop that needs no answer."""

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from privlib.trusted.inbox import CANCEL, Inbox
from privlib.trusted.protocol import ClosedError, ProtocolError, Stream


@pytest.fixture
def ends() -> Iterator[tuple[Inbox, Stream]]:
    read, write = os.pipe()
    yield Inbox(Stream(read, -1, 100)), Stream(-1, write, 1000)
    for end in (read, write):
        with contextlib.suppress(OSError):
            os.close(end)


def test_frames_come_in_order_listening_or_not(ends: tuple[Inbox, Stream]) -> None:
    inbox, host = ends
    for number in range(6):
        host.send([bytes([number])])
        if number % 2:
            inbox.listen()
            inbox.listen()  # once is enough
        assert inbox.receive() == bytes([number])
    assert not inbox.cancelled.is_set()


def test_a_word_to_stop_is_noticed_while_the_other_thread_computes(ends: tuple[Inbox, Stream]) -> None:
    inbox, host = ends
    inbox.listen()
    host.send([CANCEL])
    assert inbox.cancelled.wait(30)
    host.send([b"next"])
    assert inbox.receive_request() == b"next" and not inbox.cancelled.is_set()


def test_a_word_to_stop_between_requests_concerns_none(ends: tuple[Inbox, Stream]) -> None:
    inbox, host = ends
    for frame in (CANCEL, b"one", CANCEL, b"two"):
        host.send([frame])
    assert inbox.receive_request() == b"one" and not inbox.cancelled.is_set()
    assert inbox.receive() == b"two" and inbox.cancelled.is_set()  # it came after the request


def test_a_frame_too_long_is_an_error_to_whoever_receives(ends: tuple[Inbox, Stream]) -> None:
    inbox, host = ends
    inbox.listen()
    host.send([bytes(101)])
    with pytest.raises(ProtocolError, match="at most 100"):
        inbox.receive()


def test_the_end_is_an_error_to_whoever_receives(ends: tuple[Inbox, Stream]) -> None:
    inbox, host = ends
    os.close(host._outgoing)
    with pytest.raises(ClosedError):
        inbox.receive()


def test_a_host_that_goes_away_ends_a_computation() -> None:
    child = os.fork()
    if not child:
        read, write = os.pipe()
        Inbox(Stream(read, -1)).listen()
        os.close(write)
        time.sleep(60)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
