"""Peers side by side: each in its own process, interleaved A B C A B C …; medians, intervals, peak memory, versions.

A peer is a module in `benchmarks/peers/`, found by listing that folder, with

    PRECISION = "float32" | "bfloat16"
    def versions() -> dict[str, str]
    def inference(case: Case) -> Callable[[], ndarray]       # one function for each task it takes part in
    def unavailable() -> str | None                          # optional: why it cannot run here

The callable processes the case's batch once. Peers import their libraries inside these functions.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.cases import Case
from privlib.errors import PrivlibError
from privlib.suite import project, record
from privlib.suite.stats import Interval, median
from privlib.suite.timing import relative_error

PEERS = Path(__file__).parent / "peers"
# Thread pools spin for a moment after their last task; a turn begins when the previous peer's have gone to sleep.
_SETTLE_SECONDS = 0.05


class BenchmarkError(PrivlibError):
    """A peer that cannot run or computes something else than the others."""


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds of turns, and the least time of a turn in seconds."""

    rounds: int
    turn_seconds: float


EFFORTS = {"smoke": Effort(2, 0.01), "quick": Effort(7, 0.15), "full": Effort(25, 0.5)}
# Relative L2 of the logits. bfloat16 rounds to 2^-9; thirty layers of random weights amplify that to a tenth and more.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.5}


def peers(task: str) -> dict[str, Any]:
    """Modules of `benchmarks/peers/` that take part in `task` and can run here, by name; the others are noted."""
    found = {}
    for path in sorted(PEERS.glob("[!_]*.py")):
        module = importlib.import_module(f"benchmarks.peers.{path.stem}")
        why = module.unavailable() if hasattr(module, "unavailable") else None
        if why is not None:
            record.note(f"{path.stem} is left out: {why}")
        elif hasattr(module, task):
            found[path.stem] = module
    return found


def compare(case: Case, task: str, effort: Effort) -> dict[str, list[float]]:
    """Measure every peer on one case and record throughput, peak memory, agreement and versions.

    Returns:
        Images per second of each peer, one value a round; values of one round belong together.

    Raises:
        BenchmarkError: a peer fails, or its output differs from PyTorch eager's by more than its precision allows.
    """
    modules = peers(task)
    with _processes(modules, task, case.folder) as running:
        _log(f"{case.row}: preparing {', '.join(modules)}")
        for process in running.values():
            process.ask({"do": "prepare"})
        for name, process in running.items():
            answer = process.answer()
            record.versions(**answer["versions"])
            _log(f"{case.row}: {name} ready after {answer['seconds']:.1f} s")
        _agreement(case, modules)
        iterations = {name: _iterations(process, effort) for name, process in running.items()}
        rates: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(effort.rounds):
            for name, process in running.items():
                seconds = process.turn(iterations[name])
                rates[name].append(case.batch_size * len(seconds) / sum(seconds))
        for name, process in running.items():
            record.samples(f"{case.row}/{name}/throughput", rates[name], "images/s", higher_is_better=True)
            process.ask({"do": "memory"})
            peak = process.answer()["peak_bytes"]
            record.metric(f"{case.row}/{name}/peak_memory", peak, "bytes", nature="memory", higher_is_better=False)
    _log(f"{case.row}: " + ", ".join(f"{name} {median(values):.0f}" for name, values in rates.items()) + " images/s")
    return rates


class _Process:
    """A peer's worker process."""

    def __init__(self, name: str, task: str, folder: Path) -> None:
        self.name = name
        self.log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in `end`)
        environment = project.child_environment()
        root = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, task, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=root,
        )

    def ask(self, request: Mapping[str, object]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._fail()
        content: dict[str, Any] = json.loads(line)
        return content

    def turn(self, iterations: int) -> list[float]:
        time.sleep(_SETTLE_SECONDS)
        self.ask({"do": "turn", "iterations": iterations})
        seconds: list[float] = self.answer()["seconds"]
        return seconds

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            stream.close()

    def _fail(self) -> None:
        self.process.wait()
        self.log.seek(0)
        lines = [line for line in self.log.read().splitlines() if line.strip()]
        last = lines[-1] if lines else "no message"
        raise BenchmarkError(f"peer {self.name} ended with code {self.process.returncode}: {last}")


@contextmanager
def _processes(names: Sequence[str] | Mapping[str, Any], task: str, folder: Path) -> Iterator[dict[str, _Process]]:
    running: dict[str, _Process] = {}
    try:
        for name in names:
            running[name] = _Process(name, task, folder)
        yield running
    finally:
        for process in running.values():
            process.end()


def _iterations(process: _Process, effort: Effort) -> int:
    """Warm up, and find how many runs make a turn last long enough to be timed well."""
    seconds = min(process.turn(2))
    return max(1, round(effort.turn_seconds / max(seconds, 1e-6)))


def _agreement(case: Case, modules: Mapping[str, Any]) -> None:
    expected = np.load(case.folder / "output-pytorch_eager.npy")
    for name, module in modules.items():
        found = np.load(case.folder / f"output-{name}.npy")
        if found.shape != expected.shape:
            raise BenchmarkError(f"{case.row}: {name} gives {found.shape}, PyTorch eager {expected.shape}.")
        error, bound = relative_error(found, expected), TOLERANCES[module.PRECISION]
        if not error <= bound:
            raise BenchmarkError(f"{case.row}: {name} is {error:.1e} away from PyTorch eager, more than {bound:.0e}.")
        if name != "pytorch_eager":
            record.metric(
                f"{case.row}/{name}/relative_error", error, "", nature="random",
                n=case.batch_size, interval=Interval(0.0, bound, 1.0, "bound that the benchmark enforces"),
            )  # fmt: skip


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
