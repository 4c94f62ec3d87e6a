"""Policies as EVM bytecode: their state goes in and out, they say why they refuse, and do nothing else."""

from typing import Any

import pytest
from eth_utils.crypto import keccak

from privlib.sterling.chain.compiled import compile_vyper
from privlib.trusted import evm
from privlib.trusted.evm import PolicyProgramError, PolicyRefusal
from privlib.trusted.policy_call import SELECTOR, SIGNATURE, CallError, claim_word, evaluation

COUNTER = """
# pragma version 0.4.3
count: public(uint256)
last: public(uint256)
seen: HashMap[uint256, bool]

@external
def add(key: uint256) -> uint256:
    assert not self.seen[key], "seen"
    self.seen[key] = True
    self.count += 1
    self.last = block.timestamp
    return self.count

@external
def forget(key: uint256):
    self.seen[key] = False
    self.count -= 1

@external
def spin():
    for i: uint256 in range(max_value(uint256)):
        self.count += 1

@external
def silent():
    raise

@external
def multiply():
    x: address = create_minimal_proxy_to(self)
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, evm.Slots]:
    path = tmp_path_factory.mktemp("policy") / "Counter.vy"
    path.write_text(COUNTER)
    return evm.deploy(compile_vyper(path).initcode)


def call(name: str, *words: int) -> bytes:
    kinds = ",".join(["uint256"] * len(words))
    return keccak(text=f"{name}({kinds})")[:4] + b"".join(word.to_bytes(32, "big") for word in words)


def test_state_is_what_was_written(counter: tuple[bytes, evm.Slots]) -> None:
    code, slots = counter
    assert slots == {}
    output, one = evm.execute(code, slots, call("add", 5), timestamp=1234)
    assert int.from_bytes(output, "big") == 1
    output, two = evm.execute(code, one, call("add", 6), timestamp=1235)
    assert int.from_bytes(output, "big") == 2 and len(two) == 4
    assert slots == {} and len(one) == 3  # nothing is changed in place
    output, same = evm.execute(code, two, call("last"), timestamp=9)
    assert int.from_bytes(output, "big") == 1235 and same == two
    _, back = evm.execute(code, two, call("forget", 6), timestamp=9)
    assert len(back) == 3  # an empty slot is no slot


def test_a_policy_says_why_it_refuses_and_keeps_its_state(counter: tuple[bytes, evm.Slots]) -> None:
    code, slots = counter
    _, one = evm.execute(code, slots, call("add", 5), 0)
    with pytest.raises(PolicyRefusal, match="the policy refuses: seen"):
        evm.execute(code, one, call("add", 5), 0)
    with pytest.raises(PolicyRefusal, match="gives no reason"):
        evm.execute(code, one, call("silent"), 0)
    with pytest.raises(PolicyRefusal):
        evm.execute(code, one, call("unknown"), 0)


def test_a_policy_that_never_ends_runs_out_of_gas(counter: tuple[bytes, evm.Slots]) -> None:
    with pytest.raises(PolicyProgramError, match="failed"):
        evm.execute(*counter, call("spin"), 0)


def test_a_policy_has_no_other_contracts(counter: tuple[bytes, evm.Slots]) -> None:
    with pytest.raises(PolicyProgramError, match="makes other contracts"):
        evm.execute(*counter, call("multiply"), 0)


@pytest.mark.parametrize("code", [b"", b"\xfe", b"\x00", bytes(100), b"\x60\x00\x60\x00\xfd"])
def test_what_does_not_deploy_is_refused(code: bytes) -> None:
    with pytest.raises((PolicyProgramError, PolicyRefusal)):
        evm.deploy(code)


def test_the_call_is_the_shipped_policy_s() -> None:
    from privlib.sterling.confidential import POLICIES

    assert keccak(text=SIGNATURE)[:4] == SELECTOR
    (entry,) = [each for each in compile_vyper(POLICIES / "DatasetPolicy.vy").abi if each.get("name") == "evaluate"]
    kinds = ",".join(each["type"] for each in entry["inputs"])
    assert f"evaluate({kinds})" == SIGNATURE
    assert claim_word("") == bytes(32) and len(claim_word("research")) == 32
    wrong: list[tuple[Any, str]] = [(-1, "1"), (1, "-1"), (1.5, "1"), (1, "9" * 99)]
    for epsilon, price in wrong:
        with pytest.raises(CallError):
            evaluation("ab" * 32, bytes(32), {}, epsilon, price)
