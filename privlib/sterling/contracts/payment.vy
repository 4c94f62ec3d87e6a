# pragma version 0.4.3
"""
@title What a job costs, and who gets how much
@license Apache-2.0
@notice deposit = prices + bonus + fee, and after the split nothing is left: each dataset's owner gets its price and a
        share of the bonus, the executor the fee.
"""
import terms

WHOLE: constant(uint256) = 10_000  # basis points
MOST_WEI: constant(uint256) = 2**128
MOST_WEIGHT: constant(uint256) = 2**64


@internal
@pure
def _check(job_terms: terms.Terms):
    """
    @notice Nothing below can overflow (the registry bounds the prices).
    """
    assert job_terms.executor_basis_points <= WHOLE, "escrow: fee above the price"
    assert job_terms.bonus < MOST_WEI, "escrow: bonus out of range"


@internal
@pure
def _fee(job_terms: terms.Terms) -> uint256:
    """
    @notice Rounded up, so that many small jobs never pay less than one large one.
    """
    return (self._price(job_terms) * job_terms.executor_basis_points + WHOLE - 1) // WHOLE


@internal
@pure
def _price(job_terms: terms.Terms) -> uint256:
    total: uint256 = job_terms.bonus
    for price: uint256 in job_terms.prices:
        total += price
    return total


@internal
@pure
def _deposit(job_terms: terms.Terms) -> uint256:
    return self._price(job_terms) + self._fee(job_terms)


@internal
@pure
def _shares(job_terms: terms.Terms, weights: uint256[terms.MOST]) -> uint256[terms.MOST]:
    """
    @notice The bonus in proportion to the weights, rounded down; of the rest one wei each to the first datasets of
            positive weight. (Roundings down lose less than one wei a positive weight, so the rest goes round.)
    """
    total: uint256 = 0
    for i: uint256 in range(terms.MOST):
        assert weights[i] < MOST_WEIGHT, "escrow: weight out of range"
        assert weights[i] == 0 or job_terms.datasets[i] != 0, "escrow: weight of no dataset"
        total += weights[i]
    assert (total == 0) == (job_terms.bonus == 0), "escrow: weights where there is a bonus, and only there"
    shares: uint256[terms.MOST] = job_terms.prices
    rest: uint256 = job_terms.bonus
    if rest != 0:
        for i: uint256 in range(terms.MOST):
            share: uint256 = job_terms.bonus * weights[i] // total
            shares[i] += share
            rest -= share
        for i: uint256 in range(terms.MOST):
            if rest != 0 and weights[i] != 0:
                shares[i] += 1
                rest -= 1
    return shares
