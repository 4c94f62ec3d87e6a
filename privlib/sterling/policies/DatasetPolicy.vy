# pragma version 0.4.3
# A provider's policy: which purposes, identity classes and licences it accepts, how often, how dearly.
# Executed inside a policy enclave (privlib.trusted.evm), never on the chain: its state is private.
# All claims are SHA-256 of their texts, as privlib.trusted.policy_call says; zero where nothing is claimed.

struct Rules:
    purposes: DynArray[bytes32, 16]
    classes: DynArray[bytes32, 16]
    licence: bytes32  # zero: none is asked for
    jobs_per_consumer: uint256
    most_micro_epsilon: uint256  # of one job
    least_price: uint256  # wei

purposes: HashMap[bytes32, bool]
classes: HashMap[bytes32, bool]
licence: bytes32
jobs_per_consumer: uint256
most_micro_epsilon: uint256
least_price: uint256
jobs: HashMap[bytes32, uint256]

@deploy
def __init__(rules: Rules):
    for each: bytes32 in rules.purposes:
        self.purposes[each] = True
    for each: bytes32 in rules.classes:
        self.classes[each] = True
    self.licence = rules.licence
    self.jobs_per_consumer = rules.jobs_per_consumer
    self.most_micro_epsilon = rules.most_micro_epsilon
    self.least_price = rules.least_price

@external
def evaluate(
    job: bytes32,
    consumer: bytes32,
    purpose: bytes32,
    identity_class: bytes32,
    licence: bytes32,
    micro_epsilon: uint256,
    price: uint256,
):
    """
    @notice Reverts to refuse; what it writes is the policy's next state.
    """
    assert self.purposes[purpose], "purpose"
    assert self.classes[identity_class], "identity class"
    assert self.licence == empty(bytes32) or licence == self.licence, "licence"
    assert micro_epsilon <= self.most_micro_epsilon, "too much of the budget at once"
    assert price >= self.least_price, "price"
    assert self.jobs[consumer] < self.jobs_per_consumer, "no more jobs for this consumer"
    self.jobs[consumer] += 1
