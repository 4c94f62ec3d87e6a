# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title Jobs: payment against a model, and each job ends in exactly one way
@license Apache-2.0
@notice
        REQUESTED  request     the payer locks prices, bonus and the executor's fee
        GRANTED    approve     every provider has approved: its policy verified the program, the session is attested,
                               each budget is charged. Keys move once this is final, never before
        COMPLETED  complete    the enclave signs: the payment is split, and the same transaction publishes the model's
                               key, sealed to the recipient
        FAILED     fail        the executor gives up, the payer withdraws an ungranted request, or (by anybody) a
                               dataset, measurement, signer, platform, TCB level or session was revoked: refund
        EXPIRED    expire      by anybody, once grant_by or complete_by has passed: refund

        A job's identity is the hash of its terms with chain and contract, so terms are passed and checked, not stored.
        Whoever is owed something takes it with `withdraw`; nothing is ever sent unasked. Loops run over at most 8
        datasets. A charge is taken back only where the job was never granted; a granted job's data may have been
        touched, and its charge stays whatever becomes of it, also where the payer is refunded: whom to let spend
        budget is for the providers' policies.
"""
import payment
import signatures
import terms

interface Registry:
    def price_of(id: uint256) -> uint256: view
    def owner_of(id: uint256) -> address: view
    def approver_for(id: uint256, evidence: terms.Evidence, until: uint256) -> address: view
    def revoked(id: uint256) -> bool: view

interface Ledger:
    def charge(dataset: uint256, curve: uint256[4]): nonpayable
    def take_back(dataset: uint256, curve: uint256[4]): nonpayable

interface Attestation:
    def valid(session: address, evidence: terms.Evidence, until: uint256) -> bool: view


event Requested:
    job: indexed(bytes32)
    payer: indexed(address)
    terms: terms.Terms
    deposit: uint256


event Approved:
    job: indexed(bytes32)
    dataset: indexed(uint256)
    statement: bytes32  # digest of the policy's verdict on the program


event Granted:
    job: indexed(bytes32)


event Completed:
    job: indexed(bytes32)
    output: bytes32
    sealed_key: Bytes[MOST_KEY]
    weights: uint256[terms.MOST]


event Failed:
    job: indexed(bytes32)
    reason: uint256


event Expired:
    job: indexed(bytes32)
    was_granted: bool


event Credited:
    job: indexed(bytes32)
    to: indexed(address)
    wei_: uint256


event Withdrawn:
    owner: indexed(address)
    to: address
    wei_: uint256


# States. The last three are final.
UNKNOWN: constant(uint256) = 0
REQUESTED: constant(uint256) = 1
GRANTED: constant(uint256) = 2
COMPLETED: constant(uint256) = 3
FAILED: constant(uint256) = 4
EXPIRED: constant(uint256) = 5

# Reasons of a failure.
BY_EXECUTOR: constant(uint256) = 1
BY_PAYER: constant(uint256) = 2
BY_REVOCATION: constant(uint256) = 3

MOST_SECONDS: constant(uint256) = 30 * 86400  # from request to complete_by: no deposit is locked for longer
MOST_KEY: constant(uint256) = 1024
APPROVAL: constant(bytes32) = keccak256("privlib sterling approval v1")
COMPLETION: constant(bytes32) = keccak256("privlib sterling completion v1")

registry: public(immutable(address))
ledger: public(immutable(address))
attestation: public(immutable(address))
_status: HashMap[bytes32, uint256]  # state, and above its 8 bits one bit for each dataset that approved
credit: public(HashMap[address, uint256])


@deploy
def __init__(registry_: address, ledger_: address, attestation_: address):
    assert registry_.is_contract and ledger_.is_contract and attestation_.is_contract, "escrow: no such contract"
    registry = registry_
    ledger = ledger_
    attestation = attestation_


@external
@payable
def request(job_terms: terms.Terms) -> bytes32:
    """
    @notice Ask for a job and lock its whole price.
    """
    job: bytes32 = self._job(job_terms)
    assert msg.sender == job_terms.payer, "escrow: not the payer"
    assert self._status[job] == UNKNOWN, "escrow: job exists"
    assert job_terms.executor != empty(address), "escrow: no executor"
    payment._check(job_terms)
    assert block.timestamp <= job_terms.grant_by, "escrow: too late to grant"
    assert job_terms.grant_by < job_terms.complete_by, "escrow: no time to complete"
    assert job_terms.complete_by <= block.timestamp + MOST_SECONDS, "escrow: deposit locked too long"
    assert job_terms.datasets[0] != 0, "escrow: no dataset"
    for i: uint256 in range(terms.MOST):
        id: uint256 = job_terms.datasets[i]
        if id == 0:
            assert job_terms.prices[i] == 0, "escrow: price of no dataset"
        else:
            assert i == 0 or job_terms.datasets[i - 1] != 0, "escrow: gap in datasets"
            assert i == 0 or job_terms.datasets[i - 1] < id, "escrow: datasets not ascending"
            assert job_terms.prices[i] == staticcall Registry(registry).price_of(id), "escrow: not the price"
    assert staticcall Attestation(attestation).valid(
        job_terms.session, job_terms.evidence, job_terms.complete_by
    ), "escrow: session not attested"
    deposit: uint256 = payment._deposit(job_terms)
    assert msg.value == deposit, "escrow: not the deposit"
    self._status[job] = REQUESTED
    log Requested(job=job, payer=msg.sender, terms=job_terms, deposit=deposit)
    return job


@external
def approve(job_terms: terms.Terms, index: uint256, statement: bytes32, signature: Bytes[65]):
    """
    @notice Approve for the dataset at `index`: in a transaction of its approver (no signature), or with a signature by
            the approver over `approval_digest`, in anybody's. The last approval grants the job.
    """
    job: bytes32 = self._job(job_terms)
    status: uint256 = self._status[job]
    assert self._state(status) == REQUESTED, "escrow: not requested"
    assert block.timestamp <= job_terms.grant_by, "escrow: too late to grant"
    assert index < terms.MOST and job_terms.datasets[index] != 0, "escrow: no such dataset"
    assert status & self._bit(index) == 0, "escrow: already approved"
    dataset: uint256 = job_terms.datasets[index]
    approver: address = staticcall Registry(registry).approver_for(
        dataset, job_terms.evidence, job_terms.complete_by
    )
    actor: address = msg.sender
    if len(signature) != 0:
        actor = signatures.signer(self._approval(job, dataset, statement), signature)
    assert actor == approver, "escrow: not the approver"
    assert staticcall Attestation(attestation).valid(
        job_terms.session, job_terms.evidence, job_terms.complete_by
    ), "escrow: session not attested"
    status |= self._bit(index)
    granted: bool = True
    for i: uint256 in range(terms.MOST):
        if job_terms.datasets[i] != 0 and status & self._bit(i) == 0:
            granted = False
    self._status[job] = status + (GRANTED - REQUESTED) if granted else status
    extcall Ledger(ledger).charge(dataset, job_terms.curve)
    log Approved(job=job, dataset=dataset, statement=statement)
    if granted:
        self._still_valid(job_terms)
        log Granted(job=job)


@external
def complete(
    job_terms: terms.Terms,
    output: bytes32,
    sealed_key: Bytes[MOST_KEY],
    weights: uint256[terms.MOST],
    signature: Bytes[65],
):
    """
    @notice Deliver: the session signs `completion_digest`, anybody sends it. The payment is split, and whoever can open
            `sealed_key` (HPKE to the terms' recipient) reads the model whose ciphertext has the digest `output`. A key
            is out once it is sent: an executor sends it well before complete_by, and again after a reorganisation.
    """
    job: bytes32 = self._job(job_terms)
    assert self._state(self._status[job]) == GRANTED, "escrow: not granted"
    assert block.timestamp <= job_terms.complete_by, "escrow: too late to complete"
    self._still_valid(job_terms)
    assert signatures.signer(
        self._completion(job, output, sealed_key, weights), signature
    ) == job_terms.session, "escrow: not signed by the session"
    self._status[job] = COMPLETED
    self._pay(job, job_terms, weights)
    log Completed(job=job, output=output, sealed_key=sealed_key, weights=weights)


@external
def fail(job_terms: terms.Terms):
    """
    @notice End a job with a refund: by its executor, by its payer while it is not granted, or by anybody once something
            it rests on was revoked.
    """
    job: bytes32 = self._job(job_terms)
    state: uint256 = self._state(self._status[job])
    assert state == REQUESTED or state == GRANTED, "escrow: no running job"
    reason: uint256 = BY_REVOCATION
    if msg.sender == job_terms.executor:
        reason = BY_EXECUTOR
    elif msg.sender == job_terms.payer and state == REQUESTED:
        reason = BY_PAYER
    else:
        assert not self._is_valid(job_terms), "escrow: nothing was revoked"
    self._end(job, job_terms, FAILED)
    log Failed(job=job, reason=reason)


@external
def expire(job_terms: terms.Terms):
    """
    @notice End a job whose time has passed, with a refund. Anybody may.
    """
    job: bytes32 = self._job(job_terms)
    state: uint256 = self._state(self._status[job])
    assert state == REQUESTED or state == GRANTED, "escrow: no running job"
    deadline: uint256 = job_terms.grant_by if state == REQUESTED else job_terms.complete_by
    assert block.timestamp > deadline, "escrow: not yet expired"
    self._end(job, job_terms, EXPIRED)
    log Expired(job=job, was_granted=state == GRANTED)


@external
def withdraw(to: address):
    """
    @notice Take all that is owed to the sender, to any address.
    """
    owed: uint256 = self.credit[msg.sender]
    assert owed != 0, "escrow: nothing to withdraw"
    self.credit[msg.sender] = 0
    log Withdrawn(owner=msg.sender, to=to, wei_=owed)
    raw_call(to, b"", value=owed)


@external
@view
def job_of(job_terms: terms.Terms) -> bytes32:
    """
    @notice A job's identity.
    """
    return self._job(job_terms)


@external
@view
def deposit_of(job_terms: terms.Terms) -> uint256:
    """
    @notice What the payer locks: prices, bonus, and the executor's fee over both, rounded up.
    """
    return payment._deposit(job_terms)


@external
@view
def state(job: bytes32) -> uint256:
    """
    @notice 0 unknown, 1 requested, 2 granted, 3 completed, 4 failed, 5 expired.
    """
    return self._state(self._status[job])


@external
@view
def approvals(job: bytes32) -> uint256:
    """
    @notice One bit for each dataset of the terms that approved.
    """
    return self._status[job] >> 8


@external
@view
def approval_digest(job: bytes32, dataset: uint256, statement: bytes32) -> bytes32:
    """
    @notice What an approver signs.
    """
    return self._approval(job, dataset, statement)


@external
@view
def completion_digest(
    job: bytes32, output: bytes32, sealed_key: Bytes[MOST_KEY], weights: uint256[terms.MOST]
) -> bytes32:
    """
    @notice What a session signs.
    """
    return self._completion(job, output, sealed_key, weights)


@external
@view
def split(job_terms: terms.Terms, weights: uint256[terms.MOST]) -> uint256[terms.MOST]:
    """
    @notice What each dataset's owner gets: its price, and its share of the bonus.
    """
    return payment._shares(job_terms, weights)


@internal
@view
def _job(job_terms: terms.Terms) -> bytes32:
    return keccak256(abi_encode(chain.id, self, job_terms))


@internal
@view
def _approval(job: bytes32, dataset: uint256, statement: bytes32) -> bytes32:
    return keccak256(abi_encode(APPROVAL, chain.id, self, job, dataset, statement))


@internal
@view
def _completion(
    job: bytes32, output: bytes32, sealed_key: Bytes[MOST_KEY], weights: uint256[terms.MOST]
) -> bytes32:
    return keccak256(
        abi_encode(COMPLETION, chain.id, self, job, output, keccak256(sealed_key), keccak256(abi_encode(weights)))
    )


@internal
@pure
def _state(status: uint256) -> uint256:
    return status & 255


@internal
@pure
def _bit(index: uint256) -> uint256:
    return 1 << (8 + index)


@internal
@view
def _is_valid(job_terms: terms.Terms) -> bool:
    for id: uint256 in job_terms.datasets:
        if id != 0 and staticcall Registry(registry).revoked(id):
            return False
    return staticcall Attestation(attestation).valid(
        job_terms.session, job_terms.evidence, job_terms.complete_by
    )


@internal
@view
def _still_valid(job_terms: terms.Terms):
    assert self._is_valid(job_terms), "escrow: revoked"


@internal
def _pay(job: bytes32, job_terms: terms.Terms, weights: uint256[terms.MOST]):
    shares: uint256[terms.MOST] = payment._shares(job_terms, weights)
    for i: uint256 in range(terms.MOST):
        if shares[i] != 0:
            self._owe(job, staticcall Registry(registry).owner_of(job_terms.datasets[i]), shares[i])
    self._owe(job, job_terms.executor, payment._fee(job_terms))


@internal
def _end(job: bytes32, job_terms: terms.Terms, state: uint256):
    """
    @notice A final state with the whole deposit back to the payer.
    """
    status: uint256 = self._status[job]
    self._status[job] = state
    self._owe(job, job_terms.payer, payment._deposit(job_terms))
    if self._state(status) == REQUESTED:
        for i: uint256 in range(terms.MOST):
            if status & self._bit(i) != 0:
                extcall Ledger(ledger).take_back(job_terms.datasets[i], job_terms.curve)


@internal
def _owe(job: bytes32, to: address, wei_: uint256):
    if wei_ != 0:
        self.credit[to] += wei_
        log Credited(job=job, to=to, wei_=wei_)
