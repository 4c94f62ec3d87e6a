"""Run records: one folder a run, written whole or not at all, checked against `run.v1.schema.json`.

results/runs/<benchmark>/<system-id>/<UTC>-<sha8>/
    run.json  samples.parquet  executed.ipynb  figures/
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import psutil

from privlib import __version__
from privlib.suite import project, record, system
from privlib.suite.errors import RecordError
from privlib.suite.metrics import Record, deterministic_digest

SCHEMA = "privlib.run/1"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Subject:
    """What is run: the fields of a record that are known before it starts."""

    benchmark: str
    kind: str
    version: str
    profile: str
    parameters: dict[str, Any]
    command: list[str]


@dataclass(frozen=True)
class Run:
    """A record read back: its folder and its `run.json`."""

    folder: Path
    data: Record

    def metrics(self) -> dict[str, Record]:
        """Metrics by name."""
        return {metric["name"]: metric for metric in self.data["metrics"]}


class Staging:
    """A run in progress: a hidden folder that `commit` turns into the record, and leaving without it removes."""

    def __init__(self, results: Path, root: Path, subject: Subject) -> None:
        self.results, self.root, self.subject = results, root, subject
        self.start = datetime.now(UTC)
        self.description = system.describe()
        self.parent = results / "runs" / subject.benchmark / str(self.description["id"])
        self.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(self.parent)
        self.folder = self.parent / f"{_PARTIAL}{os.getpid()}-{self.start:%Y%m%dT%H%M%S%f}"
        self.folder.mkdir()
        self.committed: Path | None = None

    def commit(self, status: str, reason: str | None = None, executed: Record | None = None) -> Run:
        """Build `run.json` from what was recorded, validate it, and make the folder visible under its final name."""
        git = project.git_state(self.root)
        data: Record = {
            "schema": SCHEMA,
            "benchmark": self.subject.benchmark,
            "kind": self.subject.kind,
            "version": self.subject.version,
            "privlib": __version__,
            "profile": self.subject.profile,
            "git": git,
            "lock": project.lock_digest(self.root),
            "system": self.description["id"],
            "datasets": [],
            "seeds": {},
            "parameters": self.subject.parameters,
            "command": self.subject.command,
            "start": _utc(self.start),
            "end": _utc(datetime.now(UTC)),
            "status": status,
            "reason": reason,
            "metrics": [],
            "versions": {},
            "notes": [],
            "figures": [],
            "executed": executed,
        }
        samples = _merge(data, record.read_events(self.folder))
        data["digest"] = deterministic_digest(data["metrics"])
        validate(data)
        (self.folder / record.EVENTS).unlink(missing_ok=True)
        _write_samples(self.folder / "samples.parquet", samples)
        (self.folder / "run.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        system.write(self.description, self.results)
        self.committed = self._publish((git["sha"] or data["digest"])[:8])
        return Run(self.committed, data)

    def _publish(self, suffix: str) -> Path:
        for path in self.folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        name = f"{self.start:%Y%m%dT%H%M%SZ}-{suffix}"
        for attempt in range(1000):
            # Two runs of one benchmark in one second: the later one gets a number, neither is overwritten.
            target = self.parent / (name if attempt == 0 else f"{name}-{attempt}")
            try:
                os.rename(self.folder, target)
            except OSError as error:
                if not target.exists():
                    raise RecordError(f"cannot write the record {target}: {error}") from error
            else:
                return target
        raise RecordError(f"a thousand records named {name} are already in {self.parent}; move some away.")


@contextmanager
def staging(results: Path, root: Path, subject: Subject) -> Iterator[Staging]:
    """A folder to run in; without a `commit` (an exception, Ctrl-C, SIGTERM as an exception) nothing is left of it."""
    run = Staging(results, root, subject)
    try:
        yield run
    finally:
        if run.committed is None:
            shutil.rmtree(run.folder, ignore_errors=True)


@cache
def schema() -> Record:
    """The JSON schema of a record."""
    text = resources.files("privlib.suite").joinpath("run.v1.schema.json").read_text(encoding="utf-8")
    loaded: Record = json.loads(text)
    return loaded


def validate(data: Mapping[str, Any]) -> None:
    """Check a record against the schema, its digest against its metrics, and that no metric is named twice.

    Raises:
        RecordError: with the path inside the record and what was expected there.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema())
    error = jsonschema.exceptions.best_match(validator.iter_errors(data))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the record"
        raise RecordError(f"not a valid run record: {where}: {error.message}")
    names = [metric["name"] for metric in data["metrics"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordError(f"metric recorded twice: {', '.join(twice)}. Give each its own name.")
    if data["digest"] != deterministic_digest(data["metrics"]):
        raise RecordError("the record's digest does not match its deterministic metrics: it was changed after the run.")


def read(folder: Path) -> Run:
    """Read and validate the record in `folder`.

    Raises:
        RecordError: there is none, it is not JSON, or it does not validate.
    """
    path = folder / "run.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read as a run record: {error}") from error
    try:
        validate(data)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    return Run(folder, data)


def find(results: Path, benchmark: str = "*", system_id: str = "*") -> list[Run]:
    """All records below `results`, oldest first; hidden (unfinished) folders are not records."""
    folders = [path.parent for path in (results / "runs").glob(f"{benchmark}/{system_id}/[!.]*/run.json")]
    return sorted((read(folder) for folder in folders), key=lambda run: (run.data["start"], run.folder.name))


def newest(results: Path, benchmark: str, system_id: str = "*", profile: str | None = None) -> Run | None:
    """The latest successful record of a benchmark (of one system, of one profile, where named)."""
    fitting = [
        run
        for run in find(results, benchmark, system_id)
        if run.data["status"] == "ok" and profile in (None, run.data["profile"])
    ]
    return fitting[-1] if fitting else None


def remove_stale(parent: Path) -> None:
    """Remove unfinished folders whose process is gone (killed before it could clean up)."""
    for folder in parent.glob(f"{_PARTIAL}*"):
        pid = folder.name.removeprefix(_PARTIAL).split("-")[0]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def remove_stale_below(results: Path | str) -> None:
    """`remove_stale` for every benchmark and system below `results`."""
    for folder in {partial.parent for partial in Path(results).glob(f"runs/*/*/{_PARTIAL}*")}:
        remove_stale(folder)


def _merge(data: Record, events: list[tuple[str, Record]]) -> list[Record]:
    samples = []
    for kind, content in events:
        if kind == "metric":
            data["metrics"].append(content)
        elif kind == "samples":
            samples.append(content)
        elif kind == "figure":
            data["figures"] = [kept for kept in data["figures"] if kept["file"] != content["file"]] + [content]
        elif kind == "dataset" and content not in data["datasets"]:
            data["datasets"].append(content)
        elif kind == "seed":
            data["seeds"][content["name"]] = content["value"]
        elif kind == "versions":
            data["versions"].update(content)
        elif kind == "note" and content["text"] not in data["notes"]:
            data["notes"].append(content["text"])
        elif kind == "guarantee":
            data.setdefault("guarantees", []).append(content)
        elif kind in ("privacy", "enclave"):
            data[kind] = content
    return samples


def _write_samples(path: Path, samples: list[Record]) -> None:
    if not samples:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(s["name"], s["unit"], index, value) for s in samples for index, value in enumerate(s["values"])]
    names, units, indices, values = zip(*rows, strict=True)
    table = pa.table({"metric": names, "unit": units, "round": pa.array(indices, pa.int32()), "value": values})
    pq.write_table(table, path)


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
