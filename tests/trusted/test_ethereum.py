"""Keccak and Ethereum's signatures inside, against the libraries that everybody else uses; digests against the
contracts' own source."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from eth_abi.abi import encode
from eth_account import Account
from eth_keys import keys
from eth_utils.crypto import keccak as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted import ethereum
from privlib.trusted.ethereum import EnclaveAccount
from privlib.trusted.keccak import keccak

JOB, ADDRESS, OUTPUT = "1f" * 32, "ab" * 20, bytes(range(32))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_keccak_is_ethereum_s(data: bytes) -> None:
    assert keccak(data) == reference(data)


@pytest.mark.parametrize("size", [0, 1, 135, 136, 137, 271, 272, 273])
def test_keccak_pads_at_the_rate(size: int) -> None:
    assert keccak(b"a" * size) == reference(b"a" * size)


def test_an_account_is_what_its_key_says_everywhere() -> None:
    account = EnclaveAccount()
    assert Account.from_key(account.secret).address.lower() == "0x" + account.address
    assert EnclaveAccount(account.secret).address == account.address
    assert EnclaveAccount().address != account.address


def test_signatures_are_recovered_and_have_the_lower_s() -> None:
    account = EnclaveAccount()
    for number in range(24):
        digest = keccak(bytes([number]))
        signature = account.sign(digest)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        assert s <= 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0  # EIP-2
        found = {
            keys.Signature(vrs=(v, r, s)).recover_public_key_from_msg_hash(digest).to_address() for v in (0, 1)
        }  # fmt: skip
        assert "0x" + account.address in found


def test_the_key_is_on_the_curve_that_ecrecover_knows() -> None:
    account = EnclaveAccount(bytes(31) + b"\1")
    assert account.address == "7e5f4552091a69125d5dfcb7b8c2659029395bdf"  # the well-known address of private key 1
    assert isinstance(account._key.curve, ec.SECP256K1)


def test_digests_are_the_abi_s() -> None:
    """As `approval_digest`, `completion_digest` of JobEscrow.vy and `digest` of StateCommitments.vy encode them; that
    they are those contracts' own is shown wherever a job is completed on a chain."""
    job, market = bytes.fromhex(JOB), "0x" + ADDRESS
    label = reference(text="privlib sterling approval v1")
    kinds = ["bytes32", "uint256", "address", "bytes32", "uint256", "bytes32"]
    assert ethereum.approval_digest(31337, ADDRESS, JOB, 7, OUTPUT) == reference(
        encode(kinds, [label, 31337, market, job, 7, OUTPUT])
    )
    weights, sealed = [3, 1], b"sealed key"
    label = reference(text="privlib sterling completion v1")
    kinds = ["bytes32", "uint256", "address", "bytes32", "bytes32", "bytes32", "bytes32"]
    inner = reference(encode(["uint256[8]"], [[3, 1, 0, 0, 0, 0, 0, 0]]))
    assert ethereum.completion_digest(31337, ADDRESS, JOB, OUTPUT, sealed, weights) == reference(
        encode(kinds, [label, 31337, market, job, OUTPUT, reference(sealed), inner])
    )
    label = reference(text="privlib sterling commitment v1")
    kinds = ["bytes32", "uint256", "address", "bytes32", "uint256", "bytes32", "bytes32", "bytes32"]
    assert ethereum.commitment_digest(1, ADDRESS, JOB, 4, "01" * 32, "02" * 32, "03" * 32) == reference(
        encode(kinds, [label, 1, market, job, 4, b"\1" * 32, b"\2" * 32, b"\3" * 32])
    )
