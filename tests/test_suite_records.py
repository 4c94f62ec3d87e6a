"""Run records: validated, whole or absent, and what they say about the state they came from."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from privlib.suite import project, record, records, system
from privlib.suite.errors import RecordError
from privlib.suite.records import Run, Subject

SUBJECT = Subject("demo", "benchmark", "1", "smoke", {"rows": []}, ["privlib", "bench", "demo"])
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def _run(results: Path, monkeypatch: pytest.MonkeyPatch, value: float = 3) -> Run:
    with records.staging(results, results.parent, SUBJECT) as staged:
        monkeypatch.setenv(record.RUN_FOLDER, str(staged.folder))
        record.metric("a/b/count", value, "", nature="deterministic")
        record.samples("a/b/time", [1.0, 3.0, 2.0], "s", higher_is_better=False)
        record.seed("weights", 7)
        record.note("a peer was left out")
        return staged.commit("ok")


def test_a_committed_record_reads_back_and_validates(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = _run(results, monkeypatch)
    read = records.read(written.folder)
    assert read == written
    assert read.metrics()["a/b/time"]["median"] == 2.0
    assert read.data["seeds"] == {"weights": 7}
    assert read.data["notes"] == ["a peer was left out"]
    assert written.folder.parent == results / "runs" / "demo" / str(system.describe()["id"])
    assert json.loads((results / "systems" / f"{read.data['system']}.json").read_text())["threads"] >= 1
    samples = pq.read_table(written.folder / "samples.parquet").to_pydict()
    assert samples == {"metric": ["a/b/time"] * 3, "unit": ["s"] * 3, "round": [0, 1, 2], "value": [1.0, 3.0, 2.0]}
    assert not (written.folder / record.EVENTS).exists()


def test_an_exception_leaves_nothing(results: Path) -> None:
    with pytest.raises(KeyboardInterrupt), records.staging(results, results.parent, SUBJECT) as staged:
        (staged.folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert records.find(results) == []
    assert not list(results.rglob("half.txt"))


def test_folders_of_dead_processes_are_removed_and_of_living_ones_kept(results: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    parent = results / "runs" / "demo" / "system"
    dead, alive = parent / f".partial-{ended.pid}-1", parent / f".partial-{os.getpid()}-1"
    dead.mkdir(parents=True)
    alive.mkdir()
    (dead / "run.json").write_text("{")
    assert records.find(results) == []
    records.remove_stale_below(results)
    assert not dead.exists()
    assert alive.exists()


def test_two_runs_in_one_second_are_both_kept(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {_run(results, monkeypatch).folder for _ in range(3)}
    assert len(folders) == len(records.find(results)) == 3


def test_newest_skips_failures_and_other_profiles(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = _run(results, monkeypatch)
    with records.staging(results, results.parent, SUBJECT) as staged:
        staged.commit("failed", "no luck")
    newest = records.newest(results, "demo")
    assert newest is not None
    assert newest.folder == good.folder
    assert records.newest(results, "demo", profile="full") is None
    assert records.newest(results, "other") is None


def _changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(data))
    *parents, last = path.split("/")
    node: Any = copy
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("status", "fine", "status"),
        ("status", "failed", "reason"),
        ("reason", "why", "reason"),
        ("system", None, "system"),
        ("start", "yesterday", "start"),
        ("git", {"sha": "abc", "dirty": False}, "git"),
        ("metrics/0/class", "stable", "class"),
        ("metrics/0/kind", "reported", "source"),
        ("metrics/0/value", None, "value"),
        ("metrics/1/interval/method", None, "interval"),
        ("metrics/0/value", 4, "digest"),
        ("metrics/1/name", "a/b/count", "twice"),
        ("figures", [{"file": "../../etc/passwd", "alt": "a figure that is not there"}], "figures"),
        ("figures", [{"file": "figures/a.png", "alt": "short"}], "alt"),
        ("surprise", 1, "surprise"),
        ("privacy", {"epsilon": 1.0}, "privacy"),
        ("enclave", {"measurement": "00", "platform": "simulated"}, "enclave"),
    ],
)
def test_records_that_do_not_say_what_they_must_are_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch, path: str, value: Any, complaint: str
) -> None:
    data = _run(results, monkeypatch).data
    records.validate(data)
    with pytest.raises(RecordError, match=complaint):
        records.validate(_changed(data, path, value))


def test_broken_files_are_named(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _run(results, monkeypatch).folder
    (folder / "run.json").write_text("{")
    with pytest.raises(RecordError, match=r"run\.json"):
        records.find(results)


def test_an_unfinished_last_event_is_dropped(tmp_path: Path) -> None:
    (tmp_path / record.EVENTS).write_text('{"type": "note", "content": {"text": "kept"}}\n{"type": "note", "con')
    assert record.read_events(tmp_path) == [("note", {"text": "kept"})]


def test_outside_a_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(record.RUN_FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    assert record.metric("a/b/c", 5, "", nature="deterministic") == 5
    assert record.samples("a/b/d", [1.0, 2.0], "s") == 1.5
    assert list(tmp_path.iterdir()) == []


def test_private_and_enclave_runs_carry_their_statement(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with records.staging(results, results.parent, SUBJECT) as staged:
        monkeypatch.setenv(record.RUN_FOLDER, str(staged.folder))
        record.privacy(
            epsilon=3.0, delta=1e-5, accountant="PLD", neighbouring_relation="add/remove one", sampling="Poisson",
            noise_multiplier=1.1, max_grad_norm=1.0, steps=100,
        )  # fmt: skip
        record.enclave(measurement="ab" * 32, platform="simulated")
        data = staged.commit("ok").data
    assert data["privacy"]["epsilon"] == 3.0
    assert data["enclave"]["platform"] == "simulated"


def test_git_state_names_commit_and_changes_but_not_results(tmp_path: Path) -> None:
    assert project.git_state(tmp_path) == {"sha": None, "dirty": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a.txt").write_text("a")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    assert project.git_state(tmp_path)["dirty"] is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.txt").write_text("x")
    assert project.git_state(tmp_path)["dirty"] is False
    (tmp_path / "a.txt").write_text("b")
    state = project.git_state(tmp_path)
    assert state["dirty"] is True
    assert len(state["sha"] or "") == 40


def test_lock_digest_is_the_files(tmp_path: Path) -> None:
    assert project.lock_digest(tmp_path) is None
    (tmp_path / "requirements.lock").write_bytes(b"")
    assert project.lock_digest(tmp_path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_paths_are_shown_without_this_machines_folders(tmp_path: Path) -> None:
    assert project.display_path(tmp_path / ".venv" / "bin" / "python", tmp_path) == ".venv/bin/python"
    assert project.display_path(Path.home() / "env" / "python", tmp_path / "x") == "~/env/python"


def test_the_system_identifier_is_stable_and_follows_the_description() -> None:
    first = system.describe()
    assert first == system.describe()
    assert set(first["cpu_features"]) <= set(system.CPU_FEATURES)  # type: ignore[call-overload]
    assert str(first["id"]).endswith(f"{first['threads']}t-{str(first['id'])[-8:]}")


def test_the_committed_schema_is_the_packages() -> None:
    committed = REPOSITORY / "results" / "schema" / "run.v1.schema.json"
    assert json.loads(committed.read_text(encoding="utf-8")) == records.schema()
