"""Stopping a run: no half record, no orphan process, no broken notebook, whichever way it is stopped."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from privlib.suite import records
from tests.suite_project import start_privlib, write_notebook

BUSY = """
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "300"])
pathlib.Path("pids").write_text(f"{os.getpid()} {child.pid}")
time.sleep(300)
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a path short enough for sockets, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def _gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def _start(root: Path, temporary: Path) -> "tuple[subprocess.Popen[str], list[int]]":
    write_notebook(root, "01_done", ["1"])
    write_notebook(root, "02_busy", [BUSY])
    write_notebook(root, "03_after", ["1"])
    process = start_privlib(root, "run", TMPDIR=str(temporary))
    pids = root / "notebooks" / "pids"
    _until(lambda: pids.is_file() and bool(pids.read_text()))
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    return process, sorted({*workers, *map(int, pids.read_text().split())})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_what_was_finished_and_nothing_else(
    tmp_path: Path, temporary: Path, number: signal.Signals
) -> None:
    process, pids = _start(tmp_path, temporary)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert all(_gone(pid) for pid in pids), "a worker, a kernel or its child is left"
    assert [(run.data["benchmark"], run.data["status"]) for run in records.find(tmp_path / "results")] == [
        ("01_done", "ok")
    ]
    assert not list((tmp_path / "results").rglob(".partial*"))
    assert list(temporary.iterdir()) == []


def test_a_killed_runner_takes_its_workers_and_kernels_with_it(tmp_path: Path, temporary: Path) -> None:
    process, pids = _start(tmp_path, temporary)
    process.kill()
    process.communicate(timeout=60)
    _until(lambda: all(_gone(pid) for pid in pids), 20)
    assert [run.data["benchmark"] for run in records.find(tmp_path / "results")] == ["01_done"]
    _until(lambda: not list((tmp_path / "results").rglob(".partial*")), 10)


def test_a_killed_worker_is_a_failure_and_the_rest_runs(tmp_path: Path, temporary: Path) -> None:
    process, pids = _start(tmp_path, temporary)
    (worker,) = psutil.Process(process.pid).children()
    worker.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "failed: 02_busy: its worker process ended with code -9" in output
    kernel = [pid for pid in pids if pid != worker.pid]
    _until(lambda: any(_gone(pid) for pid in kernel), 10)
    assert [run.data["benchmark"] for run in records.find(tmp_path / "results")] == ["01_done", "03_after"]
    assert not list((tmp_path / "results").rglob(".partial*"))
    assert list(temporary.iterdir()) == []
    for pid in kernel:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
