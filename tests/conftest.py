"""Two things for the whole suite.

`pytest --record`: the run leaves a record as a benchmark named `soak`, which the report shows (`make soak`).

`pytest -n 2 --dist loadfile --no-loadscope-reorder` (`make test`): two processes take one file after the other. A test
marked `alone` has the machine to itself; files with such tests come first, while waiting is short, then the longest
file, so that it is not what is left at the end.
"""

import fcntl
import os
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from privlib.suite import record, records
from privlib.suite.records import Subject

ROOT = Path(__file__).resolve().parent.parent
_RECORDER = "privlib-recorder"
_LONGEST = "test_notebooks.py"
_TURN, _MACHINE = Path(__file__).parent, Path(__file__)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="leave a run record of the tests (benchmark `soak`)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record"):
        config.pluginmanager.register(Recorder(), _RECORDER)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    alone = {item.path for item in items if item.get_closest_marker("alone")}
    items.sort(key=lambda item: (item.path not in alone, item.path.name != _LONGEST))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A worker of pytest-xdist shares the machine while an ordinary test runs, its fixtures included."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with ExitStack() as stack:
        # Whoever waits for the machine holds the turn, so that nobody overtakes a test that wants to be alone.
        with _locked(_TURN, fcntl.LOCK_EX):
            stack.enter_context(_locked(_MACHINE, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH))
        return (yield)


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # even where a forked child still holds a copy
        os.close(descriptor)


class Recorder:
    """Stages a record for the session; a test adds numbers of its own with `privlib.suite.record`."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        subject = Subject("soak", "benchmark", "1", "full", {"tests": len(session.items)}, ["make", "soak"])
        with records.staging(ROOT / "results", ROOT, subject) as staged, pytest.MonkeyPatch.context() as patch:
            patch.setenv(record.RUN_FOLDER, str(staged.folder))
            result = yield
            reason = f"failed: {', '.join(self.failed)}" if self.failed else None
            staged.commit("failed" if self.failed else "ok", reason)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call":
            module, name = report.nodeid.split("::", 1)
            path = f"{Path(module).stem.removeprefix('test_')}/{re.sub(r'[^a-z0-9_.-]+', '_', name.lower()).strip('_')}"
            record.metric(f"{path}/passed", int(report.passed), "", nature="deterministic", higher_is_better=True)
            record.metric(f"{path}/duration", report.duration, "s", nature="timing", higher_is_better=False)
