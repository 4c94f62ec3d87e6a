"""The ledger file: durable, chained, locked, and never lower after a crash."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from privlib.trusted import renyi
from privlib.trusted.events import Event, EventError
from privlib.trusted.ledger import Budget, BudgetError, LedgerError, line_of
from privlib.trusted.ledger_file import EventLedger, read_events

STEP = Event("poisson", 1.0, 1, sample_rate=0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ledger"


def charged(path: Path, *events: Event, budget: Budget | None = None) -> bytes:
    with EventLedger(path, budget) as ledger:
        for event in events:
            ledger.charge(event)
    return path.read_bytes()


def test_what_was_charged_is_there_after_reopening(path: Path) -> None:
    other = Event("full", 20.0, 3)
    with EventLedger(path, Budget(3.0, 1e-5)) as ledger:
        for event in (STEP, STEP.times(4), other, STEP):
            ledger.charge(event)
        expected = [STEP.times(6), other]
        assert ledger.events == expected and ledger.steps == 9
        assert ledger.epsilon() == renyi.epsilon(expected, 1e-5)
        assert read_events(path) == (Budget(3.0, 1e-5), expected)  # also while in use
    with EventLedger(path) as ledger:
        assert ledger.events == expected and ledger.budget == Budget(3.0, 1e-5)
        assert ledger.epsilon(1e-6) == renyi.epsilon(expected, 1e-6)


def test_a_charge_is_on_disk_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the file at each fsync: the line, whole; and the folder is synced when the file appears."""
    synced: list[tuple[bool, bytes]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        synced.append((folder, path.read_bytes() if path.exists() else b""))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with EventLedger(path) as ledger:
        assert [folder for folder, _ in synced] == [False, True] and synced[1][1].endswith(b"\n")
        ledger.charge(STEP)
        assert len(synced) == 3 and synced[2][1].count(b"\n") == 2 and b"poisson" in synced[2][1]


def test_a_failed_write_closes_the_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventLedger(path) as ledger:

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(LedgerError, match="nothing may run on this charge"):
            ledger.charge(STEP)
        monkeypatch.undo()
        with pytest.raises(LedgerError, match="closed"):
            ledger.charge(STEP)


def test_the_budget_is_kept(path: Path) -> None:
    with EventLedger(path, Budget(1.0, 1e-5)) as ledger:
        room = ledger.room(STEP)
        assert renyi.epsilon([STEP.times(room)], 1e-5) <= 1.0 < renyi.epsilon([STEP.times(room + 1)], 1e-5)
        ledger.charge(STEP.times(room - 1))
        before = path.read_bytes()
        with pytest.raises(BudgetError, match="there is room for 1"):
            ledger.charge(STEP.times(2))
        assert path.read_bytes() == before and ledger.steps == room - 1
        ledger.charge(STEP)
        assert ledger.room(STEP) == 0 and ledger.epsilon() <= 1.0
    with EventLedger(path) as ledger, pytest.raises(BudgetError):
        ledger.charge(STEP)


def test_room_is_found_anew_for_another_kind(path: Path) -> None:
    strong = Event("poisson", 2.0, 1, sample_rate=0.01)
    with EventLedger(path, Budget(2.0, 1e-5)) as ledger:
        alone = ledger.room(strong)
        ledger.charge(STEP.times(50))
        left = ledger.room(strong)
        assert 0 < left < alone
        assert renyi.epsilon([STEP.times(50), strong.times(left + 1)], 1e-5) > 2.0


def test_epochs_are_charged_whole(path: Path) -> None:
    epoch = Event("random_allocation", 4.0, 20, steps_per_epoch=20, selections=1)
    with pytest.raises(EventError, match="whole epochs"):
        epoch.times(30)
    with EventLedger(path, Budget(2.0, 1e-5)) as ledger:
        assert ledger.room(epoch) % 20 == 0 < ledger.room(epoch)


def test_a_ledger_keeps_its_budget(path: Path) -> None:
    charged(path, STEP, budget=Budget(1.0, 1e-5))
    with pytest.raises(LedgerError, match="keeps its budget"):
        EventLedger(path, Budget(2.0, 1e-5))
    EventLedger(path, Budget(1.0, 1e-5)).close()


def test_one_process_at_a_time(path: Path) -> None:
    code = "import sys; from privlib.trusted.ledger_file import EventLedger; EventLedger(sys.argv[1])"
    with EventLedger(path) as ledger:
        with pytest.raises(LedgerError, match="in use by another process"):
            EventLedger(path)
        second = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert second.returncode and "in use by another process" in second.stderr
        ledger.charge(STEP)
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == 0


def test_a_forked_child_cannot_charge(path: Path) -> None:
    with EventLedger(path) as ledger:
        child = os.fork()
        if not child:
            try:
                ledger.charge(STEP)
            except LedgerError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert ledger.steps == 0


def test_cut_anywhere_in_the_last_line_the_total_does_not_fall(path: Path) -> None:
    """Every prefix that a crash can leave: what had returned stays, and what was being written is counted."""
    before = charged(path, STEP.times(5), STEP.times(2))
    whole = charged(path, STEP.times(3))
    for cut in range(len(before), len(whole)):
        path.write_bytes(whole[:cut])
        with EventLedger(path) as ledger:
            expected = 7 if cut == len(before) else 10 if cut == len(whole) - 1 else 12
            assert ledger.steps == expected, cut
            ledger.charge(STEP)
        with EventLedger(path) as ledger:  # the repair is part of the file from then on
            assert ledger.steps == expected + 1


def test_a_crash_while_a_torn_line_is_counted(path: Path) -> None:
    before = charged(path, STEP.times(5))
    whole = charged(path, STEP)
    path.write_bytes(whole[:-10])
    EventLedger(path).close()
    repaired = path.read_bytes()
    assert repaired.startswith(whole[:-10] + b"\n")
    for cut in range(len(whole) - 10, len(repaired)):
        path.write_bytes(repaired[:cut])
        with EventLedger(path) as ledger:
            assert ledger.steps >= 10, cut
    assert before


def test_a_torn_line_is_counted_for_every_kind(path: Path) -> None:
    other = Event("full", 20.0, 3)
    charged(path, STEP, STEP.times(4), other)
    with open(path, "ab") as file:
        file.write(b"\0" * 40 + b"\n")
    with EventLedger(path) as ledger:
        assert ledger.events == [STEP.times(9), other.times(6)]


def test_damage_is_refused(path: Path) -> None:
    """Any changed byte of any whole line, and any line left out, moved or doubled."""
    whole = charged(path, STEP.times(5), STEP.times(2), STEP)
    lines = whole.splitlines(keepends=True)
    changed = [lines[:1] + lines[2:], [lines[0], lines[2], lines[1], lines[3]], [*lines, lines[3]], lines[1:]]
    for copy in changed:
        path.write_bytes(b"".join(copy))
        with pytest.raises(LedgerError, match="line|not a ledger"):
            EventLedger(path)
    last = len(whole) - len(lines[-1])
    for position in range(0, last, 7):
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(LedgerError):
            EventLedger(path)
    for position in range(last, len(whole)):  # the last line: refused, or taken for torn and counted
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        try:
            with EventLedger(path) as ledger:
                assert ledger.steps >= 8
        except LedgerError:
            pass


@pytest.mark.parametrize("content", [b"", b"\n", b"notes\n", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_other_files_are_not_touched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="ledger"):
        EventLedger(path)
    assert path.read_bytes() == content


def test_a_well_chained_line_with_a_senseless_event_is_refused(path: Path) -> None:
    whole = charged(path)
    for record in ({"event": {"sampling": "poisson"}}, {"event": 3}, {}, {"counted": 1}, {"event": {"steps": -1}}):
        path.write_bytes(whole + line_of(record, whole[:64].decode())[0])
        with pytest.raises(LedgerError, match="line 2"):
            EventLedger(path)
    assert json.loads(whole[65:])["ledger"] == 1


def test_an_older_copy_is_found_out(path: Path) -> None:
    older = charged(path, STEP)
    with EventLedger(path) as ledger:
        ledger.charge(STEP)
        position = ledger.position
        ledger.require(position)
        ledger.charge(STEP)
        ledger.require(position)
    path.write_bytes(older)
    with EventLedger(path) as ledger, pytest.raises(LedgerError, match="older copy"):
        ledger.require(position)
    path.unlink()
    charged(path, STEP, STEP, STEP)
    with EventLedger(path) as ledger, pytest.raises(LedgerError, match="not the ledger of the checkpoint"):
        ledger.require(position)


def test_relations_do_not_mix(path: Path) -> None:
    with EventLedger(path) as ledger:
        ledger.charge(STEP)
        with pytest.raises(EventError, match="one ledger for each"):
            ledger.charge(Event("full", 1.0, 1, "replace_one"))
        assert ledger.steps == 1


@pytest.mark.parametrize("numbers", [(0.0, 1e-5), (-1.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (float("nan"), 1e-5)])
def test_senseless_budgets_are_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(EventError):
        Budget(*numbers)


def test_the_lock_goes_with_the_process(path: Path) -> None:
    EventLedger(path).close()
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(LedgerError, match="in use"):
        EventLedger(path)
    os.close(descriptor)
    EventLedger(path).close()
