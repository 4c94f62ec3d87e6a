"""The command: quick help, exit codes, one JSON record on standard output, status."""

import json
import sys
import time
from pathlib import Path

import pytest

from privlib.suite import bench, cli, project, records
from privlib.suite.errors import ParameterError, ProjectError
from tests.suite_project import privlib, write_notebook

BENCHMARK = '''
"""A benchmark for tests."""
import os
from privlib.suite import record
VERSION, ROWS = "1", ("one", "two")

def run(profile, rows):
    print("printed by a library")
    os.system("echo printed by a child")
    for row in rows:
        record.metric(f"{row}/peer/value", len(profile), "", nature="deterministic")
    if profile == "full":
        from privlib.errors import PrivlibError
        raise PrivlibError("a peer is missing")
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_notebook(tmp_path, "01_x", ["1"])
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "tiny.py").write_text(BENCHMARK)
    (tmp_path / "benchmarks" / "helper.py").write_text("X = 1\n")
    return tmp_path


@pytest.mark.alone
def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    begin = time.monotonic()
    output, _ = privlib(tmp_path, "--help")
    assert time.monotonic() - begin < 2
    assert "bench" in output
    assert all(name in output for name in ("run", "report", "data", "status"))


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run", "--profile", "fast"], ["run", "--jobs", "0"], ["run", "-p", "x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_bench_json_prints_one_record_and_nothing_else(root: Path) -> None:
    output, errors = privlib(root, "bench", "tiny", "--profile", "smoke", "--only", "two", "--json")
    data = json.loads(output)
    records.validate(data)
    assert [metric["name"] for metric in data["metrics"]] == ["two/peer/value"]
    assert data["command"] == ["privlib", "bench", "tiny", "--profile", "smoke", "--only", "two"]
    assert "printed by a library" in errors
    assert "printed by a child" in errors
    (kept,) = records.find(root / "results")
    assert kept.data == data


def test_a_failing_benchmark_leaves_a_failed_record_and_exits_with_1(root: Path) -> None:
    output, errors = privlib(root, "bench", "tiny", "--profile", "full", "--json", code=1)
    data = json.loads(output)
    assert (data["status"], data["reason"]) == ("failed", "PrivlibError: a peer is missing")
    assert "a peer is missing" in errors


def test_unknown_benchmarks_and_rows_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProjectError, match="there are: tiny"):
        bench.load(root, "helper")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    with pytest.raises(ParameterError, match="no row three; it has: one, two"):
        bench.run(root, "tiny", only=["three"])
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project for commands in this process, with an empty cache."""
    monkeypatch.setenv("PRIVLIB_PROJECT", str(root))
    monkeypatch.setenv("PRIVLIB_CACHE", str(root / "cache"))
    return root


def test_status_lists_what_is_cached_and_what_ran(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    output = capsys.readouterr().out
    assert "CIFAR-10  not cached" in output
    assert "01_x" in output
    assert "not run yet" in output
    privlib(here, "bench", "tiny", "--profile", "smoke")
    assert cli.main(["status"]) == 0
    output = capsys.readouterr().out
    assert [line.split()[:3] for line in output.splitlines() if line.startswith("tiny")] == [["tiny", "ok", "smoke"]]


@pytest.mark.usefixtures("here")
def test_without_records_the_report_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 1
    assert "run `privlib run` first" in capsys.readouterr().err


def test_outside_a_project_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIVLIB_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "PACKAGE_PARENT", tmp_path)
    with pytest.raises(ProjectError, match="Change into a checkout of privlib, or set PRIVLIB_PROJECT"):
        project.find_root()
    monkeypatch.setenv("PRIVLIB_PROJECT", str(tmp_path / "nowhere"))
    with pytest.raises(ProjectError, match="not a folder"):
        project.find_root()
