"""What the contracts cannot do, read from their sources: Vyper has one word for each of these, and no assembly."""

import re

import pytest

from privlib.sterling.contracts import SOURCES
from privlib.sterling.contracts.market import code

CONTRACTS = (
    "DatasetRegistry",
    "JobEscrow",
    "AttestationRegistry",
    "BudgetLedger",
    "TransparencyLog",
    "StateCommitments",
)
ALL = sorted(each.name for each in SOURCES.glob("*.vy"))
_CODE_LIMIT = 24_576  # EIP-170
FORBIDDEN = (
    *("is_delegate_call", "selfdestruct", "create_minimal_proxy_to", "create_copy_of", "create_from_blueprint"),
    *("raw_create", "tx.origin", "blockhash", "blobhash", "block.prevrandao", "block.difficulty", "tx.gasprice"),
    *(
        "unsafe_",
        "default_return_value",
        "skip_contract_check",
        "send(",
        "raw_log",
        "nonreentrancy off",
        "@nonreentrant",
    ),
)


def instructions(name: str) -> str:
    """A source without comments and documentation."""
    text = re.sub(r'""".*?"""', "", (SOURCES / name).read_text(), flags=re.DOTALL)
    return re.sub(r"#(?! pragma).*", "", text)


@pytest.mark.parametrize("name", ALL)
def test_no_contract_delegates_destroys_creates_or_trusts_what_miners_choose(name: str) -> None:
    assert not [word for word in FORBIDDEN if word in instructions(name)]


@pytest.mark.parametrize("name", ALL)
def test_every_loop_has_a_constant_bound(name: str) -> None:
    bounds = re.findall(r"for \w+: [\w.]+ in (.+):", instructions(name))
    constants = {"range(terms.MOST)", "range(WORDS)", "range(LANES)", "range(DEPTH)"}
    lists = {"job_terms.prices", "job_terms.datasets", "measurements", "signers"}  # of at most terms.MOST
    assert set(bounds) <= constants | lists


@pytest.mark.parametrize("name", CONTRACTS)
def test_only_the_escrow_takes_and_sends_money(name: str) -> None:
    """One `raw_call` with value, in `withdraw`; other calls go to the market's own contracts, or are static."""
    payable = [entry["name"] for entry in code(name).abi if entry.get("stateMutability") == "payable"]
    assert payable == (["request"] if name == "JobEscrow" else [])
    assert instructions(f"{name}.vy").count("raw_call") == (1 if name in ("JobEscrow", "AttestationRegistry") else 0)
    assert instructions(f"{name}.vy").count("value=") == (1 if name == "JobEscrow" else 0)


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_is_pinned_guarded_and_small_enough(name: str) -> None:
    first, second = (SOURCES / f"{name}.vy").read_text().splitlines()[:2]
    assert (first, second) == ("# pragma version 0.4.3", "# pragma nonreentrancy on")
    assert len(code(name).runtime) <= _CODE_LIMIT
