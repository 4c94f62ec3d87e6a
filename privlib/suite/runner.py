"""`privlib run`: a plan of jobs (notebooks × parameter values), executed here or on a Dask cluster.

One failed notebook does not stop the rest. A notebook that measures time runs alone, whatever the number of jobs.
What has been finished is kept in `results/runs/.last-run.json`, so that `--resume` starts at the first unfinished one.
"""

import hashlib
import itertools
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from privlib.files import atomic_path
from privlib.suite import notebooks, project, records
from privlib.suite.errors import ParameterError, ProjectError, RecordError
from privlib.suite.notebooks import Notebook
from privlib.suite.progress import Progress
from privlib.suite.worker import Outcome, run_job

LAST_RUN = ".last-run.json"


@dataclass(frozen=True)
class Planned:
    """One job of a plan; `key` is equal for the same notebook content, parameters and profile."""

    notebook: Notebook
    parameters: dict[str, Any]
    key: str
    label: str


class Executor(Protocol):
    """Runs one job and blocks until it has ended; None means that it was stopped."""

    def __call__(
        self, notebook: str, job: str, stopped: Callable[[], bool], announce: Callable[[int, int], None]
    ) -> Outcome | None: ...


@dataclass
class Request:
    """What the command line asked for."""

    root: Path
    names: Sequence[str] = ()
    profile: str = "quick"
    parameters: dict[str, str] = field(default_factory=dict)
    sweeps: dict[str, list[str]] = field(default_factory=dict)
    jobs: int = 1
    resume: bool = False
    scheduler: str | None = None
    results: Path | None = None

    @property
    def results_folder(self) -> Path:
        """Where records go: `results` of the project unless another folder was named."""
        return self.results or self.root / "results"


def plan(request: Request) -> list[Planned]:
    """Every notebook with every combination of swept values; all names and values are checked here, before any runs."""
    both = sorted(set(request.parameters) & set(request.sweeps))
    if both:
        raise ParameterError(f"parameter {', '.join(both)} is both set and swept; choose one.")
    planned = []
    chosen_notebooks = notebooks.find(request.root, request.names)
    if not chosen_notebooks:
        raise ProjectError(f"there are no notebooks in {request.root / 'notebooks'}.")
    for notebook in chosen_notebooks:
        for values in itertools.product(*request.sweeps.values()):
            swept = dict(zip(request.sweeps, values, strict=True))
            chosen = notebooks.override(notebook, {**request.parameters, **swept}, request.profile)
            identity = json.dumps([notebook.name, notebook.digest, chosen, request.profile], sort_keys=True)
            label = notebook.name + "".join(f" {name}={value}" for name, value in swept.items())
            planned.append(Planned(notebook, chosen, hashlib.sha256(identity.encode()).hexdigest(), label))
    return planned


def run(request: Request, progress: Progress) -> list[Outcome]:
    """Carry out a request; the outcomes of the jobs that ended are in the order of the plan.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; workers, kernels and unfinished records are gone by then.
    """
    jobs = plan(request)
    results = request.results_folder
    journal = _Journal(results / "runs" / LAST_RUN, request.resume)
    outcomes: dict[int, Outcome] = {}
    todo = []
    for index, job in enumerate(jobs):
        earlier = journal.finished(job)
        if earlier is None:
            todo.append((index, job))
        else:
            outcomes[index] = earlier
    progress.begin([(job.label, job.notebook.title) for _, job in todo], len(outcomes))
    stop = threading.Event()
    with _signals(stop), _executor(request, stop) as execute:

        def one(index: int, job: Planned) -> None:
            if stop.is_set():
                return
            progress.started(job.label)
            outcome = execute(
                job.label, _line(request, job), stop.is_set, lambda cell, cells: progress.cell(job.label, cell, cells)
            )
            if outcome is not None:
                outcomes[index] = outcome
                journal.add(job, outcome)
                progress.ended(outcome)

        for group, width in _groups(todo, request.jobs):
            with ThreadPoolExecutor(width) as pool:
                try:
                    for done in as_completed([pool.submit(one, index, job) for index, job in group]):
                        done.result()
                except BaseException:
                    stop.set()
                    raise
    progress.finish()
    if stop.is_set():
        raise KeyboardInterrupt
    return [outcomes[index] for index in sorted(outcomes)]


class _Journal:
    """Which jobs of the last invocation have ended well."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path, self.lock = path, threading.Lock()
        self.folders: dict[str, str] = {}
        if resume and path.is_file():
            self.folders = json.loads(path.read_text(encoding="utf-8"))

    def finished(self, job: Planned) -> Outcome | None:
        folder = self.folders.get(job.key)
        if folder is None:
            return None
        try:
            found = records.read(self.path.parent / folder)
        except RecordError:
            return None
        return Outcome(job.label, found.data["status"], "finished before", str(found.folder), 0.0)

    def add(self, job: Planned, outcome: Outcome) -> None:
        if outcome.status != "ok" or outcome.folder is None:
            return
        with self.lock, atomic_path(self.path) as temporary:
            self.folders[job.key] = Path(outcome.folder).resolve().relative_to(self.path.parent.resolve()).as_posix()
            temporary.write_text(json.dumps(self.folders, indent=1), encoding="utf-8")


def _groups(todo: list[tuple[int, Planned]], jobs: int) -> Iterator[tuple[list[tuple[int, Planned]], int]]:
    if jobs == 1:
        yield todo, 1
        return
    yield [item for item in todo if not item[1].notebook.timing], jobs
    yield [item for item in todo if item[1].notebook.timing], 1


def _line(request: Request, job: Planned) -> str:
    arguments = [project.display_path(a, request.root) if a.startswith("/") else a for a in sys.argv[1:]]
    return json.dumps(
        {
            "notebook": str(job.notebook.path),
            "version": job.notebook.digest[:12],
            "parameters": job.parameters,
            "profile": job.parameters.get("profile", request.profile),
            "command": ["privlib", *arguments],
            "root": str(request.root),
            "results": str(request.results_folder.resolve()),
        }
    )


@contextmanager
def _executor(request: Request, stop: threading.Event) -> Iterator[Executor]:
    if request.scheduler is None:
        yield run_job
        return
    from privlib.suite import cluster

    with cluster.connect(request.scheduler, request.results_folder, stop) as execute:
        yield execute


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops the run in order."""

    def handle(signum: int, frame: object) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
