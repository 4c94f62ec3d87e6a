# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title Privacy budgets: one per dataset, whoever asks and however often
@license Apache-2.0
@notice A dataset's budget is a cap on its Rényi curve at each order; it holds as long as one order is within its cap.
        The caps come from (ε, δ) with δ split evenly over the orders (privlib.sterling.contracts.budget), so the
        guarantee stands although consumers choose their jobs, and with them the order that ends best, after seeing
        earlier results: P(loss > ε) is at most the sum over the orders of what each one's filter allows (Feldman &
        Zrnic 2021, 2008.11193; Lécuyer 2021, 2103.01379).
        A job is charged before any key moves. Only the escrow takes a charge back, and only for a job that never
        was granted, whose keys therefore never moved.
"""
import curves

event Opened:
    dataset: indexed(uint256)
    caps: uint256[4]


event Charged:
    dataset: indexed(uint256)
    curve: uint256[4]
    total: uint256[4]


event TakenBack:
    dataset: indexed(uint256)
    curve: uint256[4]
    total: uint256[4]


_owner: immutable(address)
registry: public(address)
escrow: public(address)
_caps: HashMap[uint256, uint256[4]]
_totals: HashMap[uint256, uint256[4]]


@deploy
def __init__():
    _owner = msg.sender


@external
def bind(registry: address, escrow: address):
    """
    @notice Name the two contracts that may act here: once, by the deployer.
    """
    assert msg.sender == _owner, "ledger: not the deployer"
    assert self.escrow == empty(address), "ledger: already bound"
    assert registry != empty(address) and escrow != empty(address), "ledger: no such contract"
    self.registry = registry
    self.escrow = escrow


@external
def open(dataset: uint256, caps: uint256[4]):
    """
    @notice Begin a dataset's account. The registry calls this once per dataset.
    """
    assert msg.sender == self.registry, "ledger: not the registry"
    self._caps[dataset] = caps
    log Opened(dataset=dataset, caps=caps)


@external
def charge(dataset: uint256, curve: uint256[4]):
    """
    @notice Add a job's curve. Refused, and nothing changes, where no order would stay within its cap.
    """
    assert msg.sender == self.escrow, "ledger: not the escrow"
    total: uint256[4] = curves._add(self._totals[dataset], curve)
    assert curves._within(total, self._caps[dataset]), "ledger: budget exhausted"
    self._totals[dataset] = total
    log Charged(dataset=dataset, curve=curve, total=total)


@external
def take_back(dataset: uint256, curve: uint256[4]):
    """
    @notice Undo the charge of a job that ended before it was granted.
    """
    assert msg.sender == self.escrow, "ledger: not the escrow"
    total: uint256[4] = curves._subtract(self._totals[dataset], curve)
    self._totals[dataset] = total
    log TakenBack(dataset=dataset, curve=curve, total=total)


@external
@view
def caps(dataset: uint256) -> uint256[4]:
    """
    @notice A dataset's budget.
    """
    return self._caps[dataset]


@external
@view
def total(dataset: uint256) -> uint256[4]:
    """
    @notice What it was charged so far.
    """
    return self._totals[dataset]


@external
@view
def admits(dataset: uint256, curve: uint256[4]) -> bool:
    """
    @notice Whether a job of that curve would be admitted now.
    """
    return curves._within(curves._add(self._totals[dataset], curve), self._caps[dataset])
