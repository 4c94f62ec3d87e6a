"""Every notebook runs in `smoke`, some of them twice: no error, no unexecuted cell, no figure without alternative text,
valid and repeatable records. And the sources are as they should be: no outputs, short cells, one parameters cell."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from privlib.suite import notebooks, records, runner
from privlib.suite.progress import Progress
from privlib.suite.records import Run

ROOT = Path(__file__).resolve().parents[1]
NAMES = [notebook.name for notebook in notebooks.find(ROOT, [])]
LONGEST_CELL = 15
_IMG = re.compile(r"<img\b[^>]*>")


QUICK_TO_REPEAT = ("00_index", "05_cifar10_benchmark", "06_ginseng")
"""Run a second time in `make test`; the others, which compile more, in the soak."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A smoke run of a notebook into a results folder of its own."""

    def run(name: str) -> Run:
        results = tmp_path_factory.mktemp("results")
        runner.run(runner.Request(ROOT, [name], profile="smoke", results=results), Progress())
        (found,) = records.find(results)
        return found

    return run


@pytest.fixture(scope="module")
def first(fresh: Callable[[str], Run]) -> Callable[[str], Run]:
    """The same run whenever it is asked for."""
    return cache(fresh)


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, first: Callable[[str], Run]) -> Run:
    return first(request.param)


def _executed(run: Run) -> NotebookNode:
    return nbformat.read(run.folder / "executed.ipynb", as_version=4)


def test_runs_through_and_leaves_a_valid_record(run: Run) -> None:
    assert run.data["status"] == "ok", run.data["reason"]
    assert run.data["profile"] == "smoke"
    records.validate(run.data)
    assert records.read(run.folder).data == run.data


def test_every_cell_was_executed_without_error(run: Run) -> None:
    node = _executed(run)
    nbformat.validate(node)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_every_figure_has_alternative_text(run: Run) -> None:
    pictures = 0
    for cell in _executed(run).cells:
        assert not re.search(r"!\[\s*\]\(", cell.source), "a Markdown image without alternative text"
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    pictures += 1
                    assert len(output.metadata.get(kind, {}).get("alt", "")) >= 20, cell.source
            for tag in _IMG.findall("".join(output.get("data", {}).get("text/html", ""))):
                assert 'alt="' in tag, tag
    assert pictures == len(run.data["figures"])
    assert all((run.folder / figure["file"]).stat().st_size > 1000 for figure in run.data["figures"])


@pytest.mark.parametrize(
    "name", [name if name in QUICK_TO_REPEAT else pytest.param(name, marks=pytest.mark.soak) for name in NAMES]
)
def test_two_fresh_runs_agree(name: str, first: Callable[[str], Run], fresh: Callable[[str], Run]) -> None:
    one, other = first(name), fresh(name)
    assert one.data["digest"] == other.data["digest"]
    assert set(one.metrics()) == set(other.metrics())
    for metric in other.data["metrics"]:
        if metric["class"] == "random":
            interval = one.metrics()[metric["name"]]["interval"]
            assert interval is not None, f"{metric['name']} is random and has no interval"
            assert interval["low"] <= metric["value"] <= interval["high"], metric["name"]


@pytest.mark.parametrize("name", NAMES)
def test_source_is_clean(name: str) -> None:
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    node = nbformat.reads(text, as_version=4)
    assert (node.nbformat, node.nbformat_minor) == (4, 5)
    assert node.metadata["kernelspec"]["name"] == "python3"
    assert node.cells[0].cell_type == "markdown"
    assert node.cells[0].source.startswith("# ")
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in node.cells) == 1
    for cell in node.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], "outputs belong to runs"
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source
            assert not re.search(r"^\s*[%!]|[\"'](?:/\w|[A-Za-z]:\\)", cell.source, re.MULTILINE), cell.source
    notebook = notebooks.load(ROOT / "notebooks" / f"{name}.ipynb")
    assert notebook.parameters["profile"] == "quick"
    assert notebook.talk
