"""`pytest --record`: the run leaves a record as a benchmark named `soak`, which the report shows (`make soak`)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from privlib.suite import record, records
from privlib.suite.records import Subject

ROOT = Path(__file__).resolve().parent.parent
_RECORDER = "privlib-recorder"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="leave a run record of the tests (benchmark `soak`)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record"):
        config.pluginmanager.register(Recorder(), _RECORDER)


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
