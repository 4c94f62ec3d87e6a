"""What a person or a log sees while notebooks run: a bar over cells in a terminal, one line an event elsewhere."""

import sys
import threading
from collections.abc import Sequence
from typing import Any, TextIO

from tqdm import tqdm

from privlib.suite.worker import Outcome

_SIGNS = {"ok": "✓", "failed": "✗", "skipped": "–"}


class Progress:
    """Progress of one invocation, on `stream` (standard error); safe to call from several threads."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.lock = threading.RLock()
        self.bar: tqdm[Any] | None = None
        self.cells: dict[str, tuple[int, int]] = {}
        self.done = 0

    def begin(self, jobs: Sequence[tuple[str, str]], finished_before: int) -> None:
        """The plan is made: labels and titles of what will run."""
        if finished_before:
            self._say(f"{finished_before} finished before, {len(jobs)} to run")
        if self.stream.isatty() and jobs:
            layout = "{percentage:3.0f}%|{bar:24}| {elapsed}  {desc}"
            self.bar = tqdm(total=len(jobs), file=self.stream, bar_format=layout)

    def started(self, label: str) -> None:
        """A job has begun."""
        if self.bar is None:
            self._say(f"… {label}")
        self.cell(label, 0, 1)

    def cell(self, label: str, cell: int, cells: int) -> None:
        """A job has reached a cell."""
        with self.lock:
            self.cells[label] = (cell, cells)
            if self.bar is not None:
                running = [f"{name} [{at}/{of}]" for name, (at, of) in self.cells.items()]
                self.bar.set_description_str(", ".join(running), refresh=False)
                self._refresh()

    def ended(self, outcome: Outcome) -> None:
        """A job has ended; a failure is shown with its reason at once."""
        with self.lock:
            self.cells.pop(outcome.notebook, None)
            reason = f"\n    {outcome.reason}" if outcome.status != "ok" and outcome.reason else ""
            self._say(f"{_SIGNS.get(outcome.status, '?')} {outcome.notebook}  {outcome.seconds:.1f} s{reason}")
            if self.bar is not None:
                self.done += 1
                self._refresh()

    def finish(self) -> None:
        """Everything has ended."""
        with self.lock:
            if self.bar is not None:
                self.bar.close()
                self.bar = None

    def _refresh(self) -> None:
        assert self.bar is not None
        part = sum(at / max(of, 1) for at, of in self.cells.values())
        self.bar.n = self.done + part
        self.bar.refresh()

    def _say(self, text: str) -> None:
        with self.lock:
            if self.bar is not None:
                self.bar.write(text, file=self.stream)
            else:
                self.stream.write(text + "\n")
                self.stream.flush()
