"""`privlib run` as a user types it: parameters, kernels, failures, parallel jobs, resume, a cluster."""

import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path

import nbformat
import pytest

from privlib.suite import cli, records
from privlib.suite.records import Run
from tests.suite_project import environment, privlib, write_notebook

CASE_43 = 's = "a=b"\nlr = 1e-3  # eps=2'
REPORT = 'from privlib.suite import record\nrecord.metric("a/b/value", {}, "", nature="deterministic")'


def _only(root: Path, name: str = "*") -> Run:
    (found,) = records.find(root / "results", name)
    return found


def _text(run: Run) -> str:
    node = nbformat.read(run.folder / "executed.ipynb", as_version=4)
    return "\n".join(output.get("text", "") for cell in node.cells for output in cell.get("outputs", []))


def test_case_43_and_45_parameters_kernel_and_provenance(tmp_path: Path) -> None:
    """Defaults holding '=' are overridden; the kernel is this interpreter whatever the metadata names; braces and
    spaces in the folder's name do not matter; nothing is written to the home folder."""
    root = tmp_path / "a {folder} name"
    kernel = {"name": "my_venv", "display_name": "somebody's", "language": "python"}
    show = "import sys\nprint(s, lr, sys.executable)"
    write_notebook(root, "01_x", [show, REPORT.format("lr")], CASE_43, kernelspec=kernel)
    privlib(root, "run", "-p", "s", "c=d", "-p", "lr", "0.5")
    run = _only(root)
    assert _text(run).strip() == f"c=d 0.5 {sys.executable}"
    assert run.data["status"] == "ok"
    assert run.data["parameters"] == {"s": "c=d", "lr": 0.5}
    assert run.data["command"] == ["privlib", "run", "-p", "s", "c=d", "-p", "lr", "0.5"]
    assert run.data["executed"]["python"] == sys.version.split()[0]
    assert run.metrics()["a/b/value"]["value"] == 0.5
    assert not [path for path in (root / "home").rglob("*") if "kernel" in path.name or path.name == "history.sqlite"]
    assert {path.name for path in root.iterdir()} == {"notebooks", "results", "home"}
    assert str(root) not in (run.folder / "executed.ipynb").read_text()


def test_a_misspelt_parameter_stops_before_any_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRIVLIB_PROJECT", str(tmp_path))
    write_notebook(tmp_path, "01_x", ["open('ran', 'w')"], CASE_43)
    assert cli.main(["run", "-p", "learning_rate", "1"]) == 1
    assert "no parameter 'learning_rate'; it has: lr, s" in capsys.readouterr().err
    assert not (tmp_path / "notebooks" / "ran").exists()
    assert records.find(tmp_path / "results") == []


def test_one_failure_does_not_stop_the_rest_and_is_shown(tmp_path: Path) -> None:
    write_notebook(tmp_path, "01_bad", ["1 / 0", "print('never')"])
    write_notebook(tmp_path, "02_dead", ["import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"])
    write_notebook(tmp_path, "03_twice", [REPORT.format(1), REPORT.format(2)])
    write_notebook(tmp_path, "04_good", ["2"])
    output, errors = privlib(tmp_path, "run", "--jobs", "2", code=1)
    assert "1 of 4 notebooks ran through" in output
    assert "cell 1: ZeroDivisionError: division by zero" in errors
    found = {run.data["benchmark"]: run.data for run in records.find(tmp_path / "results")}
    statuses = {name: data["status"] for name, data in found.items()}
    assert statuses == {"01_bad": "failed", "02_dead": "failed", "03_twice": "failed", "04_good": "ok"}
    assert found["02_dead"]["reason"] == "the kernel died in cell 2"
    assert "recorded twice: a/b/value" in found["03_twice"]["reason"]
    for run in records.find(tmp_path / "results"):
        nbformat.validate(nbformat.read(run.folder / "executed.ipynb", as_version=4))


def test_timing_notebooks_run_alone_and_others_side_by_side(tmp_path: Path) -> None:
    sleep = ["import time\ntime.sleep(1)"]
    write_notebook(tmp_path, "01_a", sleep)
    write_notebook(tmp_path, "02_timed", sleep, privlib={"timing": True})
    write_notebook(tmp_path, "03_b", sleep)
    privlib(tmp_path, "run", "--jobs", "3")
    spans = {
        run.data["benchmark"]: [datetime.fromisoformat(run.data[end]) for end in ("start", "end")]
        for run in records.find(tmp_path / "results")
    }
    assert spans["01_a"][0] < spans["03_b"][1]
    assert spans["03_b"][0] < spans["01_a"][1]
    assert spans["02_timed"][0] >= max(spans["01_a"][1], spans["03_b"][1])


def test_sweep_and_resume_from_the_first_unfinished(tmp_path: Path) -> None:
    """The journal that resuming reads names records relative to itself, so that results may move."""
    cell = "import pathlib\nassert n < 3 or pathlib.Path('repaired').exists()"
    write_notebook(tmp_path, "01_x", [cell], "n = 1")
    _, errors = privlib(tmp_path, "run", "--sweep", "n=2,3", code=1)
    assert "01_x n=3" in errors
    journal = tmp_path / "results" / "runs" / ".last-run.json"
    (folder,) = json.loads(journal.read_text()).values()
    assert not Path(folder).is_absolute() and (journal.parent / folder / "run.json").is_file()
    (tmp_path / "notebooks" / "repaired").touch()
    output, errors = privlib(tmp_path, "run", "--sweep", "n=2,3", "--resume")
    assert "1 finished before, 1 to run" in errors
    assert "2 of 2" in output
    counts = [(run.data["parameters"]["n"], run.data["status"]) for run in records.find(tmp_path / "results")]
    assert counts == [(2, "ok"), (3, "failed"), (3, "ok")]


def test_case_53_progress_bars_end_as_one_line(tmp_path: Path) -> None:
    frames = "import sys\nfor i in range(1001):\n    sys.stderr.write(f'\\rframe {i}')"
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(2000), desc='bar', mininterval=0):\n    pass"
    write_notebook(tmp_path, "01_x", [frames, bar])
    privlib(tmp_path, "run")
    run = _only(tmp_path)
    lines = _text(run).splitlines()
    assert lines[0] == "frame 1000"
    assert lines[1].startswith("bar: 100%|")
    assert len(lines) == 2
    path = run.folder / "executed.ipynb"
    assert path.stat().st_size < 100_000
    assert "widget" not in path.read_text()


def test_a_cluster_of_two_workers_gives_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    write_notebook(tmp_path, "01_a", [REPORT.format(4)], "n = 1")
    write_notebook(tmp_path, "02_bad", ["raise ValueError('on purpose')"])
    privlib(tmp_path, "run", "01")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    async def on_cluster() -> tuple[str, str]:
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        async with distributed.LocalCluster(**options, asynchronous=True) as cluster:
            arguments = ("run", "--jobs", "2", "--scheduler", cluster.scheduler_address)
            return await asyncio.to_thread(privlib, tmp_path, *arguments, code=1)

    output, _ = asyncio.run(on_cluster())
    assert "failed: 02_bad: cell 1: ValueError: on purpose" in output
    local, remote = records.find(tmp_path / "results", "01_a")
    assert local.data["digest"] == remote.data["digest"]
    assert {path.name for path in local.folder.iterdir()} == {path.name for path in remote.folder.iterdir()}
    assert not list((tmp_path / "results").rglob(".partial*"))


def test_a_scheduler_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda *given, **options: client(*given, **{**options, "timeout": "1s"}))
    monkeypatch.setenv("PRIVLIB_PROJECT", str(tmp_path))
    write_notebook(tmp_path, "01_a", ["1"])
    assert cli.main(["run", "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
