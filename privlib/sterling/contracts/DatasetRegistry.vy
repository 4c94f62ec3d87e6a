# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title Datasets on offer: terms, price, who may run on them, expiry, revocation
@license Apache-2.0
@notice Content, licence and policy are bound at upload and never change; another policy is another upload. A content
        is registered once, so that registering it again buys no new budget.
"""
import terms

interface BudgetLedger:
    def open(dataset: uint256, caps: uint256[4]): nonpayable

struct Dataset:
    owner: address  # is paid
    approver: address  # approves jobs: the provider, or the key of its policy's enclave
    price: uint256  # wei a job
    expires: uint256  # Unix seconds: no job may run past it
    content: bytes32  # root of the encrypted content
    licence: bytes32  # hash of the licence's text
    policy: bytes32  # hash of the policy that decides on jobs


event Registered:
    id: indexed(uint256)
    owner: indexed(address)
    dataset: Dataset
    budget_epsilon: uint256  # 10⁻⁹
    budget_delta: uint256  # 10⁻¹⁸
    caps: uint256[4]


event PriceSet:
    id: indexed(uint256)
    price: uint256


event MeasurementAllowed:
    id: indexed(uint256)
    measurement: indexed(bytes32)
    allowed: bool


event SignerAllowed:
    id: indexed(uint256)
    rule: terms.SignerRule
    allowed: bool


event Revoked:
    id: indexed(uint256)


_ledger: immutable(BudgetLedger)
count: public(uint256)
datasets: public(HashMap[uint256, Dataset])
revoked: public(HashMap[uint256, bool])
id_of: public(HashMap[bytes32, uint256])
measurements: public(HashMap[uint256, HashMap[bytes32, bool]])
_signers: HashMap[uint256, HashMap[bytes32, HashMap[uint256, uint256]]]  # least SVN plus one


@deploy
def __init__(ledger: address):
    assert ledger.is_contract, "registry: no ledger"
    _ledger = BudgetLedger(ledger)


@external
def register(
    dataset: Dataset,
    budget_epsilon: uint256,
    budget_delta: uint256,
    caps: uint256[4],
    measurements: DynArray[bytes32, terms.MOST],
    signers: DynArray[terms.SignerRule, terms.MOST],
) -> uint256:
    """
    @notice Offer a dataset; its budget is opened with `caps`, which follow from (budget_epsilon, budget_delta).
    """
    assert dataset.owner == msg.sender, "registry: not the owner"
    assert dataset.approver != empty(address), "registry: no approver"
    assert dataset.price < 2**128, "registry: price out of range"
    assert dataset.expires > block.timestamp, "registry: already expired"
    assert dataset.content != empty(bytes32), "registry: no content"
    assert self.id_of[dataset.content] == 0, "registry: content is registered"
    self.count += 1
    id: uint256 = self.count
    self.datasets[id] = dataset
    self.id_of[dataset.content] = id
    extcall _ledger.open(id, caps)
    log Registered(
        id=id,
        owner=msg.sender,
        dataset=dataset,
        budget_epsilon=budget_epsilon,
        budget_delta=budget_delta,
        caps=caps,
    )
    for measurement: bytes32 in measurements:
        self._allow_measurement(id, measurement, True)
    for rule: terms.SignerRule in signers:
        self._allow_signer(id, rule, True)
    return id


@external
def set_price(id: uint256, price: uint256):
    """
    @notice The price of jobs requested from now on.
    """
    self._only_owner(id)
    assert price < 2**128, "registry: price out of range"
    self.datasets[id].price = price
    log PriceSet(id=id, price=price)


@external
def allow_measurement(id: uint256, measurement: bytes32, allowed: bool):
    """
    @notice Let an enclave of this measurement run on the dataset, or no longer.
    """
    self._only_owner(id)
    self._allow_measurement(id, measurement, allowed)


@external
def allow_signer(id: uint256, rule: terms.SignerRule, allowed: bool):
    """
    @notice Let whatever this signer signs run on the dataset, or no longer.
    """
    self._only_owner(id)
    self._allow_signer(id, rule, allowed)


@external
def revoke(id: uint256):
    """
    @notice Withdraw the dataset, for good: nothing is granted and nothing released from now on.
    """
    self._only_owner(id)
    self.revoked[id] = True
    log Revoked(id=id)


@external
@view
def price_of(id: uint256) -> uint256:
    """
    @notice What a job costs now. Refused for a dataset that is not on offer.
    """
    self._on_offer(id)
    return self.datasets[id].price


@external
@view
def owner_of(id: uint256) -> address:
    """
    @notice Who is paid.
    """
    return self.datasets[id].owner


@external
@view
def approver_for(id: uint256, evidence: terms.Evidence, until: uint256) -> address:
    """
    @notice Who approves jobs. Refused where the dataset is not on offer until then, or does not admit that enclave.
    """
    self._on_offer(id)
    assert until <= self.datasets[id].expires, "registry: job outlives the dataset"
    least: uint256 = self._signers[id][evidence.signer][evidence.product]
    assert (
        self.measurements[id][evidence.measurement] or (least != 0 and evidence.svn >= least - 1)
    ), "registry: enclave not allowed"
    return self.datasets[id].approver


@internal
def _allow_measurement(id: uint256, measurement: bytes32, allowed: bool):
    self.measurements[id][measurement] = allowed
    log MeasurementAllowed(id=id, measurement=measurement, allowed=allowed)


@internal
def _allow_signer(id: uint256, rule: terms.SignerRule, allowed: bool):
    assert rule.least_svn < 2**16, "registry: SVN out of range"
    self._signers[id][rule.signer][rule.product] = rule.least_svn + 1 if allowed else 0
    log SignerAllowed(id=id, rule=rule, allowed=allowed)


@internal
@view
def _only_owner(id: uint256):
    assert msg.sender == self.datasets[id].owner, "registry: not the owner"


@internal
@view
def _on_offer(id: uint256):
    assert self.datasets[id].owner != empty(address), "registry: no such dataset"
    assert not self.revoked[id], "registry: revoked"
    assert block.timestamp <= self.datasets[id].expires, "registry: expired"
