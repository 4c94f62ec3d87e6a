"""Progress of long work: a bar where somebody watches, plain log lines where nobody does."""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from tqdm import tqdm

Progress = Callable[[str, int, int | None], None]
"""Called as `progress(what, done, total)`; `total` is None while unknown, `done == total` ends that piece of work."""


class NotedProgress(Protocol):
    """A Progress that also takes a short note on how it goes."""

    def __call__(self, what: str, done: int, total: int | None, note: str = "") -> None: ...


_SECONDS_BETWEEN_LINES = 5.0


def silent(what: str, done: int, total: int | None, note: str = "") -> None:
    """Show nothing."""


class ConsoleProgress:
    """Writes to standard error: one tqdm bar for each piece of work on a terminal, else a line at its start, every
    five seconds and at its end."""

    def __init__(self) -> None:
        self._what: str | None = None
        self._bar: tqdm[Any] | None = None
        self._started = self._spoken = 0.0

    def __call__(self, what: str, done: int, total: int | None, note: str = "") -> None:
        if what != self._what:
            self._begin(what, total)
        if self._bar is not None:
            self._bar.total = total
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            if done == total:
                self._bar.close()
        else:
            self._speak(done, total, note)
        if done == total:
            self._what = None

    def _begin(self, what: str, total: int | None) -> None:
        if self._bar is not None:
            self._bar.close()
        self._what, self._started, self._spoken = what, time.monotonic(), float("-inf")
        interactive = sys.stderr.isatty()
        self._bar = tqdm(desc=what, total=total, unit="", unit_scale=True, file=sys.stderr) if interactive else None

    def _speak(self, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        if done != total and now - self._spoken < _SECONDS_BETWEEN_LINES:
            return
        self._spoken = now
        share = f"{100 * done // total}%" if total else f"{done:,}"
        said = f"{self._what}: {share} after {now - self._started:.0f} s{note and ', ' + note}"
        print(said, file=sys.stderr, flush=True)
