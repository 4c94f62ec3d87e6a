"""A ledger in a file: append-only, written durably, one process at a time.

`charge` returns only after the line and, at creation, the folder's entry have reached the disk (fsync).

- A crash while a line is written leaves a torn last line. No charge that was torn has returned, so nothing it stands
  for ran; it is counted all the same, as one more charge, of the largest size so far, of every kind of event so far.
  The total never falls.
- One process at a time holds the file (flock); a second one, or a forked child, is refused.
- Cutting whole lines off the end, or putting back an old copy, leaves a ledger that fits. Who keeps `position` of an
  earlier time (a checkpoint, a monotonic counter) finds out: `require` refuses a ledger that does not begin with it.
"""

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from privlib.trusted.events import Event, merged
from privlib.trusted.ledger import Budget, Ledger, LedgerError, digest_of_torn, first_line, parse


class EventLedger(Ledger):
    """A ledger's file, opened for charging. Context manager; `close` gives the lock back.

    budget: for a new ledger (None: no limit). An existing one keeps its own; another one is refused. Raises
    LedgerError.
    """

    def __init__(self, path: Path | str, budget: Budget | None = None) -> None:
        self.path, self._pid = Path(path), os.getpid()
        if not self.path.exists():
            _create(self.path, budget)
        self._file = open(self.path, "a+b")  # noqa: SIM115 - held open as long as the ledger is
        try:
            self._lock()
            self._file.seek(0)
            found = parse(self.path, self._file.read())
            if budget is not None and budget != found.budget:
                raise LedgerError(f"{self.path} has the budget {found.budget}, not {budget}; a ledger keeps its budget")
            super().__init__(str(self.path), found)
            if found.unfinished:
                self._write(b"\n")
            if found.torn:
                self._count_torn(found.torn)
        except BaseException:
            self._file.close()
            raise

    def charge(self, event: Event) -> None:
        """As `Ledger.charge`; LedgerError also after a failed write, or in a forked child."""
        if os.getpid() != self._pid or self._file.closed:
            raise LedgerError(f"{self.path} is closed, or was opened by another process; open it where it is used")
        super().charge(event)

    def close(self) -> None:
        """Give the lock back; charging ends."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError(
                f"{self.path} is in use by another process; one at a time may charge it, so that none is forgotten"
            ) from None

    def _count_torn(self, torn: Sequence[bytes]) -> None:
        largest: dict[Event, Event] = {}
        for event in self._charged:
            largest[event.kind] = max(event, largest.get(event.kind, event), key=lambda each: each.steps)
        counted = list(largest.values()) * len(torn)
        self._append({"torn": digest_of_torn(torn), "counted": [event.to_json() for event in counted]})
        self._charged += counted

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.close()  # what is on disk is not known: a reader will count a torn line
            raise LedgerError(f"{self.path} could not be written ({error}); nothing may run on this charge") from error


def read_events(path: Path | str) -> tuple[Budget | None, list[Event]]:
    """Budget and events (one a kind) of a ledger, also of one in use. Raises LedgerError."""
    found = parse(Path(path), Path(path).read_bytes())
    return found.budget, merged(found.events)


def _create(path: Path, budget: Budget | None) -> None:
    """A ledger of one line, there whole or not at all, and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb") as file:
            file.write(first_line(budget))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster: its ledger counts
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
