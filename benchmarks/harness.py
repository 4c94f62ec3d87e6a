"""Peers side by side: each in its own process, interleaved A B C A B C …; medians, intervals, peak memory, versions.

A peer is a module in `benchmarks/peers/`, found by listing that folder, with

    PRECISION = "float32" | "bfloat16"
    PRIVATE = True                                           # optional: it clips each example and adds noise
    def versions() -> dict[str, str]
    def unavailable() -> str | None                          # optional: why it cannot run here
    def facts(case, peer, run) -> dict[str, float]           # optional: what it can tell of a run, e.g. its operators
    def peak_bytes(run) -> int                               # optional: where the work is not done in this process

and one function for each task it takes part in, whose callable processes the case's batch once:

    def inference(case: Case) -> Callable[[], ndarray]       # logits
    def training(case: Case) -> Prepared                     # one whole step: gradients, clipping, noise, update
    def accumulation(case: Case) -> Prepared                 # gradients, clipped and summed: a step without its end

Peers import their libraries inside these functions.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.cases import Case
from privlib.errors import PrivlibError
from privlib.suite import project, record, system, tables
from privlib.suite.stats import Interval, median
from privlib.suite.timing import relative_error

PEERS = Path(__file__).parent / "peers"
# Thread pools spin for a moment after their last task; a turn begins when the previous peer's have gone to sleep.
_SETTLE_SECONDS = 0.05


class BenchmarkError(PrivlibError):
    """A peer that cannot run or computes something else than the others."""


@dataclass(frozen=True)
class Measured:
    """What `compare` found, by peer, and the peers' modules.

    throughput: images per second, one value a round; values of one round belong together. peak_bytes: of the process.
    facts: what some peers tell of their runs.
    """

    throughput: dict[str, list[float]]
    peak_bytes: dict[str, int]
    facts: dict[str, dict[str, float]]
    modules: dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds of turns, and the least time of a turn in seconds."""

    rounds: int
    turn_seconds: float


EFFORTS = {"smoke": Effort(2, 0.01), "quick": Effort(7, 0.15), "full": Effort(25, 0.5)}
# Relative L2 of the logits; of the worst parameter's gradient in float32, of the whole gradient in bfloat16, where a
# small normalization's alone can be half off. bfloat16 rounds to 2^-9; thirty layers of random weights amplify that to
# a tenth and more. In training a rounding flips gates of ReLU and max pooling, in float32 too.
TOLERANCES = {
    "inference": {"float32": 1e-4, "bfloat16": 0.5},
    "training": {"float32": 5e-2, "bfloat16": 0.5},
    "accumulation": {"float32": 5e-2},
}


def peers(task: str, only: Collection[str] | None = None) -> dict[str, Any]:
    """Modules of `benchmarks/peers/` (those in `only`, if given) that take part in `task` and can run here, by name;
    the others are noted."""
    found = {}
    for path in sorted(PEERS.glob("[!_]*.py")):
        if only is not None and path.stem not in only:
            continue
        module = importlib.import_module(f"benchmarks.peers.{path.stem}")
        if not hasattr(module, task):
            continue
        why = module.unavailable() if hasattr(module, "unavailable") else None
        if why is None:
            found[path.stem] = module
        else:
            record.note(f"{path.stem} is left out: {why}")
    return found


def compare(case: Case, task: str, effort: Effort, only: Collection[str] | None = None) -> Measured:
    """Measure every peer (of those in `only`, if given) on one case; record throughput, memory, agreement, versions.

    A competitor whose output differs from the reference by more than its precision allows is left out, with a note.

    Raises:
        BenchmarkError: a peer fails, or ours is the one that differs.
    """
    modules = peers(task, only)
    with _processes(modules, task, case.folder) as running:
        _log(f"{case.row}: preparing {', '.join(modules)}")
        _prepare(case, running)
        for name in _disagreeing(case, task, modules):
            running.pop(name).end()
            modules.pop(name)
        iterations = {name: _iterations(process, effort) for name, process in running.items()}
        rates: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(effort.rounds):
            for name, process in running.items():
                seconds = process.turn(iterations[name])
                rates[name].append(case.batch_size * len(seconds) / sum(seconds))
        peaks, facts = {}, {}
        for name, process in running.items():
            record.samples(f"{case.row}/{name}/throughput", rates[name], "images/s", higher_is_better=True)
            peaks[name] = process.reply({"do": "memory"})["peak_bytes"]
            facts[name] = process.reply({"do": "facts"})
            record.metric(
                f"{case.row}/{name}/peak_memory", peaks[name], "bytes", nature="memory", higher_is_better=False
            )
    _log(f"{case.row}: " + ", ".join(f"{name} {median(values):.0f}" for name, values in rates.items()) + " images/s")
    return Measured(rates, peaks, facts, modules)


def _prepare(case: Case, running: Mapping[str, "_Process"]) -> None:
    """As many at a time as there are cores, so that not all need at once what compiling and a first run take."""
    names, width = list(running), system.available_cores()
    for begin in range(0, len(names), width):
        batch = names[begin : begin + width]
        for name in batch:
            running[name].ask({"do": "prepare"})
        for name in batch:
            answer = running[name].answer()
            record.versions(**answer["versions"])
            _log(f"{case.row}: {name} ready after {answer['seconds']:.1f} s")


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

    def reply(self, request: Mapping[str, object]) -> dict[str, Any]:
        self.ask(request)
        return self.answer()

    def turn(self, iterations: int) -> list[float]:
        time.sleep(_SETTLE_SECONDS)
        seconds: list[float] = self.reply({"do": "turn", "iterations": iterations})["seconds"]
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


def _disagreeing(case: Case, task: str, modules: Mapping[str, Any]) -> list[str]:
    """Record how far each peer is from its reference; the names of the competitors that are too far."""
    wrong = []
    for name, module in modules.items():
        reference = _reference(task, module)
        error = _distance(case, name, reference, together=module.PRECISION == "bfloat16")
        bound = TOLERANCES[task][module.PRECISION]
        if not error <= bound:
            text = f"{case.row}: {name} is {error:.1e} away from {tables.label(reference)}, more than {bound:.0e}"
            if name.startswith("privlib") or name == reference:
                raise BenchmarkError(f"{text}.")
            record.note(f"{text}: left out")
            wrong.append(name)
        elif name != reference:
            record.metric(
                f"{case.row}/{name}/relative_error", error, "", nature="random",
                n=case.batch_size, interval=Interval(0.0, bound, 1.0, "bound that the benchmark enforces"),
            )  # fmt: skip
    return wrong


def _reference(task: str, module: Any) -> str:
    """Inference is compared with PyTorch eager, training with float64 gradients that the case brings along."""
    if task == "inference":
        return "pytorch_eager"
    return "reference_private" if getattr(module, "PRIVATE", False) else "reference_plain"


def _distance(case: Case, name: str, reference: str, *, together: bool = False) -> float:
    """Relative L2 distance of the array that is farthest from the reference's, or of all arrays `together`."""
    with (
        np.load(case.folder / f"output-{reference}.npz") as expected,
        np.load(case.folder / f"output-{name}.npz") as found,
    ):
        shapes = [{key: arrays[key].shape for key in arrays.files} for arrays in (found, expected)]
        if shapes[0] != shapes[1]:
            raise BenchmarkError(f"{case.row}: {name} gives {shapes[0]}, {tables.label(reference)} {shapes[1]}.")
        if together:
            flat = [np.concatenate([arrays[key].ravel() for key in expected.files]) for arrays in (found, expected)]
            return relative_error(flat[0], flat[1])
        errors = [relative_error(found[key], expected[key]) for key in expected.files]
    # max() may pass over a NaN.
    return max(errors) if all(np.isfinite(errors)) else float("nan")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
