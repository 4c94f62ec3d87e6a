"""What every chain does: the embedded one and a real node, by the same tests."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography_vectors import open_vector_file

from privlib.sterling.chain import (
    Account,
    AnvilChain,
    Chain,
    ChainError,
    ContractCode,
    EmbeddedChain,
    ReorganisedError,
    RevertedError,
)
from privlib.sterling.chain.base import INITIAL_BALANCE

P256 = "0x" + "00" * 18 + "0100"


def test_a_transaction_changes_state_and_says_so(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    receipt = contract.transact("add", "first", sender=alice, value=3)
    assert contract.call("count") == 1
    assert chain.balance(contract.address) == 3
    assert chain.balance(alice.address) == INITIAL_BALANCE - 3
    (event,) = contract.events_of(receipt)
    assert (event.name, event.arguments) == ("Counted", {"who": alice.address, "count": 1, "note": "first"})
    assert contract.events("Counted") == [event]
    assert chain.receipt(receipt.transaction) == receipt
    assert chain.block(receipt.block.number) == receipt.block == chain.head()


def test_structs_and_lists_go_in_and_out(chain: Chain, probe: ContractCode) -> None:
    alice, bob = chain.account("alice"), chain.account("bob")
    contract = chain.deploy(probe, 5, sender=alice)
    assert contract.call("swap", (alice, 1), [bob, alice]) == ((bob.address, 2), (bob.address, alice.address))


def test_a_contract_sees_its_chain_block_and_caller(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    head = chain.head()
    assert contract.call("where", sender=alice) == (chain.chain_id, head.number, head.timestamp, alice.address)


def test_a_refusal_gives_the_contracts_reason_and_changes_nothing(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 1, sender=alice)
    contract.transact("add", "", sender=alice)
    before = chain.head()
    with pytest.raises(RevertedError, match="probe: full") as refused:
        contract.transact("add", "", sender=alice, value=7)
    assert refused.value.reason == "probe: full"
    with pytest.raises(RevertedError, match="no reason given"):
        contract.call("silent")
    with pytest.raises(RevertedError, match="probe: no limit"):
        chain.deploy(probe, 0, sender=alice)
    assert chain.head() == before
    assert chain.balance(contract.address) == 0


def test_a_transaction_without_end_runs_out_of_gas(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 1, sender=alice)
    with pytest.raises(ChainError, match="(?i)out ?of ?gas|OOG"):
        contract.transact("burn", sender=alice)
    assert contract.call("count") == 0


def test_who_has_too_little_sends_nothing(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    with pytest.raises(ChainError, match="(?i)balance|funds"):
        contract.transact("add", "", sender=Account("beggar"), value=1)


def test_what_does_not_fit_the_interface_is_refused_before_it_is_sent(chain: Chain, probe: ContractCode) -> None:
    contract = chain.deploy(probe, 5, sender=chain.account("alice"))
    with pytest.raises(ChainError, match=r"no function vanish of 0 arguments; it has .*add\(string\)"):
        contract.call("vanish")
    with pytest.raises(ChainError, match="add"):
        contract.call("add", 5)
    with pytest.raises(ChainError, match=r"deployed with \(limit_\); 2 arguments"):
        chain.deploy(probe, 1, 2, sender=chain.account("bob"))
    with pytest.raises(ChainError, match="no block 99"):
        chain.block(99)


def test_final_state_lags_behind_the_newest_by_the_confirmations(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    chain.finalise(contract.deployed)  # type: ignore[arg-type]  # it was deployed here
    receipt = contract.transact("add", "x", sender=alice, value=2)
    for left in range(chain.confirmations, 0, -1):
        assert not chain.is_final(receipt), left
        assert contract.call("count", at="final") == 0
        assert contract.events("Counted", at="final") == []
        assert chain.balance(contract.address, at="final") == 0
        chain.mine()
    assert chain.is_final(receipt)
    assert contract.call("count", at="final") == 1
    assert len(contract.events("Counted", at="final")) == 1
    assert chain.balance(contract.address, at="final") == 2


def test_finalise_lets_just_so_many_blocks_pass(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    receipt = contract.transact("add", "x", sender=alice)
    seen: list[tuple[int, int]] = []
    assert chain.finalise(receipt, lambda done, total: seen.append((done, total))) == receipt.block
    assert seen == [(n, chain.confirmations) for n in range(chain.confirmations + 1)]
    assert chain.head().number == receipt.block.number + chain.confirmations


def test_a_reorganisation_undoes_state_receipts_and_events(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    kept = contract.transact("add", "kept", sender=alice)
    undone = contract.transact("add", "undone", sender=alice, value=5)
    before = chain.head()
    assert chain.reorganise(1) == [undone.transaction]
    assert chain.head().number == before.number and chain.head().hash != before.hash
    assert contract.call("count") == 1 and chain.balance(contract.address) == 0
    assert chain.balance(alice.address) == INITIAL_BALANCE
    assert chain.receipt(undone.transaction) is None and chain.receipt(kept.transaction) == kept
    assert [event["note"] for event in contract.events("Counted")] == ["kept"]
    with pytest.raises(ReorganisedError, match="send it again"):
        chain.finalise(undone)
    again = contract.transact("add", "undone", sender=alice, value=5)
    chain.finalise(again)
    assert contract.call("count", at="final") == 2


def test_what_is_final_cannot_be_reorganised(chain: Chain, probe: ContractCode) -> None:
    alice = chain.account("alice")
    contract = chain.deploy(probe, 5, sender=alice)
    receipt = contract.transact("add", "", sender=alice)
    chain.finalise(receipt)
    chain.reorganise(chain.confirmations)
    assert chain.receipt(receipt.transaction) == receipt and contract.call("count") == 1
    for depth in (0, chain.confirmations + 1):
        with pytest.raises(ChainError, match=f"between 1 and {chain.confirmations}"):
            chain.reorganise(depth)


def test_time_passes_as_told_and_only_forward(chain: Chain) -> None:
    before = chain.head()
    chain.advance(86_400)
    assert chain.head().number == before.number + 1
    assert chain.head().timestamp == before.timestamp + 86_400
    with pytest.raises(ChainError, match="only passes"):
        chain.advance(0)


def test_the_p256_precompile_agrees_with_nists_vectors(chain: Chain) -> None:
    vectors = p256_vectors()
    assert sum(valid for _, valid in vectors) >= 3 and sum(not valid for _, valid in vectors) >= 10
    for data, valid in vectors:
        assert chain.call(P256, data) == ((1).to_bytes(32, "big") if valid else b"")


def test_the_p256_precompile_answers_nothing_to_malformed_input(chain: Chain) -> None:
    data = next(data for data, valid in p256_vectors() if valid)
    zero = bytes(32)
    for bad in (
        b"",
        data[:-1],
        data + b"\0",
        data[:32] + zero + data[64:],
        data[:64] + zero + data[96:],
        data[:96] + 2 * zero,
    ):
        assert chain.call(P256, bad) == b""


def test_gas_is_the_same_on_both_to_the_unit(anvil: Callable[..., AnvilChain], probe: ContractCode) -> None:
    def costs(chain: Chain) -> list[int]:
        alice = Account("alice", b"\x01" * 32)
        chain.set_balance(alice.address, INITIAL_BALANCE)
        contract = chain.deploy(probe, 5, sender=alice)
        assert contract.deployed is not None
        calls: list[tuple[Any, ...]] = [
            ("add", "a"),
            ("add", "b"),
            ("clear",),
            ("send_all", alice),
        ]  # a fresh slot, a used one, a refund
        receipts = [contract.transact(*each, sender=alice, value=len(each) % 2) for each in calls[:2]]
        receipts += [contract.transact(*each, sender=alice) for each in calls[2:]]
        return [contract.deployed.gas_used, *(each.gas_used for each in receipts)]

    with anvil() as node:
        assert costs(EmbeddedChain()) == costs(node)


def p256_vectors() -> list[tuple[bytes, bool]]:
    """Input of the precompile, and whether the signature is valid: NIST's SigVer vectors of P-256 with SHA-256."""
    with open_vector_file("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp", "r") as file:
        text = file.read()
    section = text.split("[P-256,SHA-256]")[1].split("[")[0]
    found = []
    for block in section.strip().split("\n\n"):
        fields = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        if "Msg" in fields:
            numbers = b"".join(int(fields[name], 16).to_bytes(32, "big") for name in ("R", "S", "Qx", "Qy"))
            digest = hashlib.sha256(bytes.fromhex(fields["Msg"])).digest()
            found.append((digest + numbers, fields["Result"].startswith("P")))
    return found
