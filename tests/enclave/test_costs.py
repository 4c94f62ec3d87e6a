"""The model of SGX's costs: arithmetic on counts, and a name for what it is."""

import pytest

from privlib.enclave.costs import SgxCosts, modelled_cost
from privlib.enclave.errors import EnclaveError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import launch
from privlib.enclave.policy import QuotePolicy
from tests.enclave.providers import examples

NOTHING = {"system_calls": 0, "bytes_in": 0, "bytes_out": 0}


def test_transitions_and_copies_follow_the_counts() -> None:
    after = {"system_calls": 300, "bytes_in": 6_000_000, "bytes_out": 3_000_000}
    cost = modelled_cost(NOTHING, after, 0, 0, SgxCosts(clock_hz=1e9))
    assert (cost.transitions.least, cost.transitions.most) == pytest.approx((2.4e-3, 3.6e-3))
    assert (cost.copies.least, cost.copies.most) == pytest.approx((9e6 / 16 / 1e9, 9e-3))
    assert (cost.paging.least, cost.paging.most) == (0, 0)
    assert cost.total.most == pytest.approx(3.6e-3 + 9e-3)


def test_paging_begins_where_memory_passes_the_epc() -> None:
    machine = SgxCosts(clock_hz=1e9, epc_bytes=100 * 4096)
    assert modelled_cost(NOTHING, NOTHING, 100 * 4096, 7, machine).paging.most == 0
    over = modelled_cost(NOTHING, NOTHING, 100 * 4096 + 1, 7, machine).paging
    assert (over.least, over.most) == pytest.approx((7 * 1 * 4e-5, 7 * 101 * 4e-5))


def test_everything_is_marked_as_modelled() -> None:
    cost = modelled_cost(NOTHING, NOTHING, 1 << 30, 1)
    for part in (cost.transitions, cost.copies, cost.paging, cost.total):
        assert part.kind == "modelled" and "modelled" in str(part)


def test_senseless_counts_are_refused() -> None:
    with pytest.raises(EnclaveError, match="must rise"):
        modelled_cost({**NOTHING, "bytes_in": 5}, NOTHING, 0, 0)
    with pytest.raises(EnclaveError, match="must rise"):
        modelled_cost(NOTHING, NOTHING, -1, 0)
    with pytest.raises(EnclaveError, match="positive"):
        SgxCosts(clock_hz=0)


def test_it_takes_the_counts_of_a_run(image: EnclaveImage, policy: QuotePolicy) -> None:
    images = examples(4)[0]
    with launch(image) as enclave, enclave.connect(policy) as session:
        before = session.status()
        session.infer(images)
        after = session.status()
    assert after["bytes_in"] - before["bytes_in"] > images.nbytes
    assert after["system_calls"] - before["system_calls"] >= 4  # two frames each way
    assert modelled_cost(before, after, 1 << 20, 1).total.most > 0
