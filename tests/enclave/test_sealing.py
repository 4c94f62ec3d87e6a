"""Sealed state opens in the enclave it was sealed for, and only its newest version does (cases.md 51)."""

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.enclave.simulated_sealing import FILE, FileRegister, SimulatedPlatformSecret
from privlib.files import atomic_path
from privlib.trusted.sealing import (
    MAXIMUM_SVN,
    NOTHING,
    RollbackError,
    SealAlteredError,
    SealedState,
    SealError,
    SealFormatError,
    SealIdentityError,
    SealingKeys,
    SealLabelError,
    SealVersionError,
    older_key,
    seal,
    unseal,
)

PLATFORM = SimulatedPlatformSecret(bytes(range(32)))
MEASUREMENT, SIGNER, OTHER = bytes(range(32)), bytes(range(32, 64)), bytes(32)


@cache
def keys(
    measurement: bytes = MEASUREMENT,
    signer: bytes = SIGNER,
    product: int = 7,
    svn: int = 3,
    debug: bool = False,
    platform: SimulatedPlatformSecret = PLATFORM,
) -> SealingKeys:
    return platform.keys(measurement, signer, product, svn, debug)


@pytest.mark.parametrize("bound", ["measurement", "signer"])
@pytest.mark.parametrize("data", [b"", b"one epoch charged", os.urandom(1 << 20)])
def test_what_is_sealed_opens_and_shows_nothing(bound: str, data: bytes) -> None:
    blob = seal(data, keys(), "ledger", bound)  # type: ignore[arg-type]  # one of two literals
    assert unseal(blob, keys(), "ledger").data == data
    assert not data or data not in blob
    assert seal(data, keys(), "ledger", bound) != blob  # type: ignore[arg-type]  # one of two literals


def test_signer_sealed_state_opens_after_an_upgrade_and_measurement_sealed_state_does_not() -> None:
    upgraded = keys(measurement=OTHER, svn=5)
    assert unseal(seal(b"state", keys(), "ledger", "signer"), upgraded, "ledger").data == b"state"
    with pytest.raises(SealIdentityError, match="does not open after an upgrade"):
        unseal(seal(b"state", keys(), "ledger", "measurement"), upgraded, "ledger")


def test_an_older_version_does_not_open_what_a_newer_one_sealed() -> None:
    blob = seal(b"state", keys(svn=4), "ledger", "signer")
    with pytest.raises(SealVersionError, match="sealed by version 4, this enclave is 3: run the newer one"):
        unseal(blob, keys(svn=3), "ledger")
    forged = blob[:6] + (3).to_bytes(2, "big") + blob[8:]
    with pytest.raises(SealIdentityError):
        unseal(forged, keys(svn=3), "ledger")


def test_keys_of_older_versions_follow_from_newer_ones_alone() -> None:
    newest, older = keys(svn=MAXIMUM_SVN), keys(svn=0)
    assert older_key(newest.signer_key, MAXIMUM_SVN) == older.signer_key
    assert keys(svn=9).key("signer", 3) == keys(svn=3).signer_key
    assert len({keys(svn=svn).signer_key for svn in range(10)}) == 10


@pytest.mark.parametrize(
    ("bound", "change"),
    [
        ("measurement", {"measurement": OTHER}),
        ("measurement", {"debug": True}),
        ("measurement", {"platform": SimulatedPlatformSecret()}),
        ("signer", {"signer": OTHER}),
        ("signer", {"product": 8}),
        ("signer", {"debug": True}),
        ("signer", {"platform": SimulatedPlatformSecret()}),
    ],
)
def test_another_identity_does_not_open(bound: str, change: dict[str, object]) -> None:
    blob = seal(b"state", keys(), "ledger", bound)  # type: ignore[arg-type]  # one of two literals
    with pytest.raises(SealIdentityError):
        unseal(blob, keys(**change), "ledger")


def changed(blob: bytes, offset: int) -> bytes:
    return blob[:offset] + bytes([blob[offset] ^ 1]) + blob[offset + 1 :]


BLOB_ATTACKS: dict[str, tuple[Callable[[bytes], bytes], type[SealError]]] = {
    "ciphertext altered": (lambda b: changed(b, 121), SealAlteredError),
    "tag altered": (lambda b: changed(b, len(b) - 1), SealAlteredError),
    "version number raised": (lambda b: changed(b, 15), SealAlteredError),
    "chain altered": (lambda b: changed(b, 20), SealAlteredError),
    "salt altered": (lambda b: changed(b, 50), SealIdentityError),
    "commitment altered": (lambda b: changed(b, 85), SealIdentityError),
    "passed off as sealed to the signer": (lambda b: b[:4] + b"\2" + b[5:], SealIdentityError),
    "kind unknown": (lambda b: b[:4] + b"\3" + b[5:], SealFormatError),
    "renamed": (lambda b: changed(b, 115), SealLabelError),
    "another state in its place": (lambda b: seal(b"state", keys(), "model"), SealLabelError),
    "cut short": (lambda b: b[:-1], SealAlteredError),
    "cut in the header": (lambda b: b[:60], SealFormatError),
    "lengthened": (lambda b: b + b"\0", SealAlteredError),
    "emptied": (lambda b: b"", SealFormatError),
    "of a later format": (lambda b: b"PLS2" + b[4:], SealFormatError),
    "a label longer than the file": (lambda b: b[:112] + b"\0\xff" + b[114:], SealFormatError),
}


@pytest.mark.parametrize("name", BLOB_ATTACKS)
def test_attack_on_sealed_state_meets_its_error(name: str) -> None:
    attack, error = BLOB_ATTACKS[name]
    blob = seal(b"state", keys(), "ledger", version=2)
    assert unseal(blob, keys(), "ledger").version == 2
    with pytest.raises(SealError) as refused:
        unseal(attack(blob), keys(), "ledger")
    assert type(refused.value) is error, refused.value


@pytest.mark.parametrize(
    "arguments", [{"label": "x" * 256}, {"version": -1}, {"version": 1 << 64}, {"previous": b"short"}]
)
def test_what_does_not_fit_the_format_is_not_sealed(arguments: dict[str, object]) -> None:
    values: dict[str, object] = {"label": "ledger", **arguments}
    with pytest.raises(SealFormatError):
        seal(b"", keys(), **values)  # type: ignore[arg-type]  # wrong values are the point


@pytest.fixture
def register(tmp_path: Path) -> FileRegister:
    return FileRegister(tmp_path / "register")


@pytest.fixture
def state(register: FileRegister) -> SealedState:
    return SealedState(keys(), "ledger", register)


def step(state: SealedState, data: bytes) -> bytes:
    blob = state.seal(data)
    state.commit(blob)
    return blob


def test_the_newest_state_opens_after_any_number_of_steps(state: SealedState) -> None:
    assert state.open(None) is None
    for i in range(5):
        blob = step(state, b"%d" % i)
        assert state.open(blob) == b"%d" % i


def test_an_older_state_put_back_is_refused(state: SealedState) -> None:
    yesterday, _ = step(state, b"one epoch charged"), step(state, b"two epochs charged")
    with pytest.raises(RollbackError, match="version 1 of the state is not the newest"):
        state.open(yesterday)


def test_state_that_was_removed_is_missed(state: SealedState) -> None:
    step(state, b"charged")
    with pytest.raises(RollbackError, match="no state was given, and version 1 exists"):
        state.open(None)


def test_death_before_storing_leaves_the_former_state(state: SealedState) -> None:
    former = step(state, b"former")
    state.seal(b"never stored")
    assert state.open(former) == b"former"


def test_death_between_storing_and_registering_opens_the_successor_and_registers_it(state: SealedState) -> None:
    former = step(state, b"former")
    stored = state.seal(b"charged before it died")
    assert state.open(stored) == b"charged before it died"
    with pytest.raises(RollbackError):
        state.open(former)


def test_of_two_successors_only_the_registered_one_opens(state: SealedState) -> None:
    """A host that kills the enclave at the right moment holds two successors of one state; it may use one."""
    step(state, b"former")
    small, large = state.seal(b"one epoch charged"), state.seal(b"ten epochs charged")
    state.commit(large)
    with pytest.raises(RollbackError):
        state.open(small)
    with pytest.raises(RollbackError, match="does not follow"):
        state.commit(small)
    assert state.open(large) == b"ten epochs charged"


def test_a_register_that_was_set_back_alone_is_noticed(tmp_path: Path, state: SealedState) -> None:
    step(state, b"one")
    old = (tmp_path / "register").read_bytes()
    step(state, b"two")
    newest = step(state, b"three")
    (tmp_path / "register").write_bytes(old)
    with pytest.raises(RollbackError, match="set back"):
        state.open(newest)


def test_a_register_set_back_with_its_state_is_not_noticed(tmp_path: Path, state: SealedState) -> None:
    """The stated limit: the simulated register lies on the host."""
    first = step(state, b"one")
    old = (tmp_path / "register").read_bytes()
    step(state, b"two")
    (tmp_path / "register").write_bytes(old)
    assert state.open(first) == b"one"


def test_another_state_s_history_does_not_fit(tmp_path: Path) -> None:
    first, second = (SealedState(keys(), "ledger", FileRegister(tmp_path / name)) for name in ("a", "b"))
    step(first, b"mine")
    theirs = step(second, b"theirs")
    with pytest.raises(RollbackError):
        first.open(theirs)


def test_an_upgraded_enclave_goes_on_with_the_state(register: FileRegister, state: SealedState) -> None:
    blob = step(state, b"before")
    upgraded = SealedState(keys(measurement=OTHER, svn=4), "ledger", register)
    assert upgraded.open(blob) == b"before"
    newer = step(upgraded, b"after")
    with pytest.raises(SealVersionError):
        state.open(newer)


def test_a_renamed_file_stays_readable_and_the_next_write_is_whole(tmp_path: Path, state: SealedState) -> None:
    """Case 51: seal, rename to .bak, write again, read both; neither is ever empty."""
    path = tmp_path / "ledger"
    for data in (b"first", b"second"):
        blob = state.seal(data)
        if path.exists():
            path.rename(tmp_path / "ledger.bak")
        with atomic_path(path) as temporary:
            temporary.write_bytes(blob)
        state.commit(blob)
    assert state.open(path.read_bytes()) == b"second"
    assert unseal((tmp_path / "ledger.bak").read_bytes(), keys(), "ledger").data == b"first"
    with pytest.raises(RollbackError):
        state.open((tmp_path / "ledger.bak").read_bytes())


KILLED = """
import os, sys
from pathlib import Path
from privlib.enclave.simulated_sealing import FileRegister, SimulatedPlatformSecret
from privlib.files import atomic_path
from privlib.trusted.sealing import SealedState

folder, stop = Path(sys.argv[1]), int(sys.argv[2])
keys = SimulatedPlatformSecret(bytes(range(32))).keys(bytes(32), bytes(32), 7, 3, False)
state = SealedState(keys, "ledger", FileRegister(folder / "register"))
stored = folder / "ledger"
charged = int(state.open(stored.read_bytes() if stored.exists() else None) or b"0")
blob = state.seal(b"%d" % (charged + 1))
if stop == 0:
    os._exit(9)
with atomic_path(stored) as temporary:
    temporary.write_bytes(blob)
    if stop == 1:
        os._exit(9)
if stop == 2:
    os._exit(9)
state.commit(blob)
if stop == 3:
    os._exit(9)
print(charged + 1)
"""


@pytest.mark.parametrize("stop", range(4))
def test_a_kill_between_any_two_steps_never_loses_what_was_committed(stop: int, tmp_path: Path) -> None:
    def run(where: int) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(where)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert run(-1).stdout.strip() == "1"
    assert run(stop).returncode == 9
    after = run(-1)
    assert after.stdout.strip() == ("2" if stop < 2 else "3"), after.stderr


def test_a_register_goes_forward_one_by_one(register: FileRegister) -> None:
    assert register.read() == (0, NOTHING)
    register.advance(1, b"a" * 32)
    for version in (0, 1, 3):
        with pytest.raises(RollbackError):
            register.advance(version, b"b" * 32)
    with pytest.raises(SealError, match="expected 32"):
        register.advance(2, b"short")
    assert register.read() == (1, b"a" * 32)


def test_a_damaged_register_is_refused(tmp_path: Path) -> None:
    (tmp_path / "register").write_bytes(b"PLR1")
    with pytest.raises(SealError, match="no register"):
        FileRegister(tmp_path / "register").read()


def test_the_platform_s_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first, again = (SimulatedPlatformSecret.load_or_create(tmp_path) for _ in range(2))
    assert first == again
    assert first.secret.hex() not in repr(first)
    assert stat.S_IMODE(os.stat(tmp_path / FILE).st_mode) == 0o600
    for damaged in ("", "00", "no hexadecimal"):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(SealError, match="damaged"):
            SimulatedPlatformSecret.load_or_create(tmp_path)


def test_an_svn_that_is_none_is_refused() -> None:
    for svn in (-1, MAXIMUM_SVN + 1):
        with pytest.raises(SealError, match="isv_svn"):
            keys(svn=svn)


REGISTERS = st.one_of(st.binary(max_size=60), st.binary(min_size=40, max_size=40).map(lambda tail: b"PLR1" + tail))


@given(REGISTERS)
@settings(max_examples=100, deadline=None)
def test_a_hostile_register_file_is_read_whole_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    read_or_refused(tmp_path_factory, data)


@pytest.mark.soak
@given(REGISTERS)
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_register_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    read_or_refused(tmp_path_factory, data)


def read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile-register"
    path.write_bytes(data)
    try:
        version, newest = FileRegister(path).read()
    except SealError:
        assert len(data) != 44 or not data.startswith(b"PLR1")
        return
    assert data == b"PLR1" + version.to_bytes(8, "big") + newest


SEALED = seal(b"state", keys(), "ledger", "signer", version=5)
KEYS = keys()


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=300))
    blob = bytearray(SEALED)
    at = draw(st.integers(0, len(blob)))
    blob[at : at + draw(st.sampled_from((0, 1, 2, 60)))] = draw(st.binary(max_size=4))
    return bytes(blob)


def opens_unchanged_or_not_at_all(blob: bytes) -> None:
    try:
        found = unseal(blob, KEYS, "ledger")
    except SealError:
        assert blob != SEALED
        return
    assert blob == SEALED and found.data == b"state"


@given(hostile())
@settings(max_examples=200, deadline=None)
def test_hostile_bytes_open_unchanged_or_not_at_all(blob: bytes) -> None:
    opens_unchanged_or_not_at_all(blob)


@pytest.mark.soak
@given(hostile())
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_states_open_unchanged_or_not_at_all(blob: bytes) -> None:
    opens_unchanged_or_not_at_all(blob)


def test_every_flipped_bit_is_refused() -> None:
    for byte, bit in itertools.product(range(len(SEALED)), range(8)):
        blob = bytearray(SEALED)
        blob[byte] ^= 1 << bit
        with pytest.raises(SealError):
            unseal(bytes(blob), KEYS, "ledger")
