"""The simulated root: made once, kept private, named so that nobody mistakes it."""

import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import AttestationError
from privlib.enclave.simulated_root import FILE, SimulatedRoot
from privlib.enclave.verify import verify_quote


def test_what_is_loaded_again_vouches_under_the_same_root(tmp_path: Path) -> None:
    first = SimulatedRoot.load_or_create(tmp_path)
    again = SimulatedRoot.load_or_create(tmp_path)
    assert again.certificate == first.certificate
    policy = QuotePolicy(measurements=frozenset({b"m" * 32}), root=first.certificate)
    quote = again.quote(b"m" * 32, b"s" * 32, 1, 2, False, b"r" * 64)
    assert verify_quote(quote, policy, first.collateral()).platform == again.platform.ppid


def test_the_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    SimulatedRoot.load_or_create(tmp_path)
    assert stat.S_IMODE(os.stat(tmp_path / FILE).st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_many_at_once_agree_on_one_root(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(SimulatedRoot.load_or_create(tmp_path).certificate))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "root": 5}'])
def test_a_damaged_file_is_refused_with_the_remedy(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(AttestationError, match="remove it, and a new root is made"):
        SimulatedRoot.load_or_create(tmp_path)


def test_every_certificate_says_that_it_is_simulated(simulated_root: SimulatedRoot) -> None:
    for issuer in (simulated_root.root, simulated_root.ca, simulated_root.pck, simulated_root.tcb):
        (name,) = issuer.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert "SIMULATED" in name.value and "NOT INTEL" in name.value
    root = simulated_root.root.certificate
    assert "privlib SIMULATED root" in root.subject.rfc4514_string() and root.issuer == root.subject


@pytest.mark.parametrize(("position", "value"), [(0, b"x"), (1, b"x" * 33), (5, b"x" * 63), (2, 1 << 16), (3, -1)])
def test_fields_that_do_not_fit_are_refused(position: int, value: object, simulated_root: SimulatedRoot) -> None:
    arguments: list[object] = [b"m" * 32, b"s" * 32, 1, 2, False, b"r" * 64]
    arguments[position] = value
    with pytest.raises(AttestationError, match="expected"):
        simulated_root.quote(*arguments)  # type: ignore[arg-type]  # wrong values are the point
