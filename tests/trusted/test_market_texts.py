"""Grants, statements and outputs: one text for each, and whatever was altered is refused."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.errors import PrivlibError
from privlib.trusted.finality import HEAD, FinalityError, Statement, Witnesses, signed_statement
from privlib.trusted.grant import Grant, GrantError, bound_policy, statement_of
from privlib.trusted.output import OutputError, gate_info, open_output, seal_output

CONSUMER = X25519PrivateKey.generate()
DATASETS = ("aa" * 32, "bb" * 32)
GRANT = Grant(
    chain=31337, escrow="ab" * 20, job="cd" * 32, consumer=CONSUMER.public_key().public_bytes_raw().hex(),
    datasets=DATASETS, numbers=(1, 4), steps=5, sample_rate=0.1, physical_batches=3,
)  # fmt: skip
GATES = {DATASETS[0]: b"1" * 32, DATASETS[1]: b"2" * 32}


def test_a_grant_comes_back_and_binds() -> None:
    assert Grant.decode(GRANT.encode()) == GRANT
    other = replace(GRANT, steps=6)
    assert statement_of(GRANT.encode()) != statement_of(other.encode()) and gate_info(GRANT) != gate_info(other)
    assert bound_policy(b"terms", b"") == b"terms" != bound_policy(b"terms", GRANT.encode())


@pytest.mark.parametrize(
    "changes",
    [{"chain": 0}, {"chain": True}, {"escrow": "AB" * 20}, {"job": "cd"}, {"consumer": "x" * 64}, {"datasets": ()},
     {"datasets": DATASETS[:1]}, {"datasets": (DATASETS[0],) * 2}, {"numbers": (4, 1)}, {"numbers": (1, 1)},
     {"numbers": (0, 1)}, {"steps": 1.0}, {"sample_rate": 1}, {"physical_batches": "3"}, {"appraisal_noise": -1.0},
     {"appraisal_noise": float("nan")},
     {"numbers": tuple(range(1, 10)), "datasets": tuple(f"{i:064x}" for i in range(9))}],
)  # fmt: skip
def test_senseless_grants_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(GrantError):
        replace(GRANT, **changes)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(GRANT.encode()) - 1), st.integers(0, 255))
def test_hostile_grants_are_refused_or_say_something_else(data: bytes, at: int, byte: int) -> None:
    text = bytearray(GRANT.encode())
    text[at] = byte
    for hostile in (data, bytes(text), GRANT.encode() + b" ", b" " + GRANT.encode()):
        try:
            assert Grant.decode(hostile).encode() == hostile
        except GrantError:
            continue


def statement(**changes: Any) -> Statement:
    said: dict[str, Any] = {"chain": 1, "escrow": "ab" * 20, "what": HEAD, "block": 9, "time": 10}
    said |= {"subject": "01" * 32, "value": "02" * 32, "nonce": "03" * 32}
    return Statement(**said | changes)


def test_as_many_witnesses_as_asked_for_must_say_the_same() -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(3)]
    names = tuple(key.public_key().public_bytes_raw().hex() for key in keys)
    said, other = statement(), statement(value="04" * 32)
    two, one = [said.sign(key) for key in keys[:2]], [said.sign(keys[0]), other.sign(keys[1])]
    witnesses = Witnesses(names, 2)
    assert witnesses.require(signed_statement(said, two), what=HEAD, nonce="03" * 32) == said
    stranger = said.sign(Ed25519PrivateKey.generate())
    for signatures in (one, two[:1], [two[0], stranger], [two[0], two[0]]):
        with pytest.raises(FinalityError, match="1 witnesses signed this, 2 must"):
            witnesses.read(signed_statement(said, signatures))
    with pytest.raises(FinalityError, match="state nonce"):
        witnesses.require(signed_statement(said, two), nonce="05" * 32)
    for names_, threshold in ((names, 4), (names, 0), ((names[0], names[0]), 1)):
        with pytest.raises(FinalityError):
            Witnesses(names_, threshold)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_hostile_statements_are_refused(data: bytes) -> None:
    with pytest.raises(FinalityError):
        Witnesses(("ab" * 32,), 1).read(data)


def test_an_output_opens_with_any_one_gate_and_the_consumer_s_key_alone() -> None:
    file, sealed = seal_output(b"the model", GRANT, GATES)
    for dataset, gate in GATES.items():
        assert open_output(file, sealed, GRANT, CONSUMER, dataset, gate) == b"the model"
    assert b"the model" not in file
    refused: list[tuple[Any, ...]] = [
        (file, sealed, GRANT, X25519PrivateKey.generate(), DATASETS[0], GATES[DATASETS[0]]),
        (file, sealed, GRANT, CONSUMER, DATASETS[0], GATES[DATASETS[1]]),
        (file, sealed, GRANT, CONSUMER, "cc" * 32, GATES[DATASETS[0]]),
        (file, sealed, replace(GRANT, job="ef" * 32), CONSUMER, DATASETS[0], GATES[DATASETS[0]]),
        (file, seal_output(b"", GRANT, GATES)[1], GRANT, CONSUMER, DATASETS[0], GATES[DATASETS[0]]),
        (file[:-1] + bytes([file[-1] ^ 1]), sealed, GRANT, CONSUMER, DATASETS[0], GATES[DATASETS[0]]),
        (file[:-1], sealed, GRANT, CONSUMER, DATASETS[0], GATES[DATASETS[0]]),
        (b"", sealed, GRANT, CONSUMER, DATASETS[0], GATES[DATASETS[0]]),
    ]
    for arguments in refused:
        with pytest.raises(OutputError):
            open_output(*arguments)
    assert issubclass(OutputError, PrivlibError)


def test_the_same_release_makes_another_file_each_time() -> None:
    assert seal_output(b"the model", GRANT, GATES)[0] != seal_output(b"the model", GRANT, GATES)[0]
