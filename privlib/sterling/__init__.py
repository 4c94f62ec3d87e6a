"""Sterling: a data market where the buyer's program is proved private before the data moves.

After Hynes, Dao, Yan, Cheng, Song, "A demonstration of Sterling", PVLDB 11(12), 2018. The whole of it:

market = Market.open("market")  # contracts on an embedded chain, storage, a SIMULATED root of trust
issuer = Issuer()
hospital = Provider(market, "hospital", market.chain.account("hospital"))
listing = hospital.offer(images, labels, Offer(
    epsilon=8.0, price=10**18, rules=Rules(purposes=("research",), classes=("university",)),
    issuers={issuer.public_key.hex(): ("purpose", "identity_class")},
))  # encrypted; its key is in the keeping of a policy enclave
consumer = Consumer(market, "consumer", market.chain.account("consumer"))
contract = TrainingContract.of(model, 8, (3, 32, 32), optimizer=SGD(0.1), privacy=DPSGD(2.0, 1.0, 16), steps=100,
                               sample_rate=0.1, physical_batches=8)
print(consumer.check(contract, [listing])[0])  # what is released, its sensitivity, its cost; or why not
executor = Executor(market, "executor", market.chain.account("executor"))
bid = executor.bid(contract)  # an enclave runs, its quote is checked on the chain
claims = {"purpose": "research", "identity_class": "university"}
credential = issuer.issue(consumer.identity, claims, market.now, market.now + 86400)
request = consumer.request(contract, [listing], bid, [credential], [issuer.revocations(market.now, market.now + 86400)])
hospital.approve(request, executor)  # checks, policy, commitment, then the budget is charged
hospital.deliver(request, executor)  # the key, once the charge is final
executor.run(request)  # trains, and is paid
delivery = consumer.receive(request, [hospital], executor.collateral)
print(delivery.verified.datasets[0].epsilon, hospital.earnings(), hospital.spent())

Several providers pool their data in one job: each approves and delivers as here, under its own terms and budget.
`Market.expire` and `Market.fail` end a job with a refund, `Market.withdraw` takes what is owed.

Simulated, and named so where it is: the root of trust (`privlib.enclave.SimulatedRoot`), enclaves as closed-in
processes, and the witnesses that tell an enclave what is final (`privlib.sterling.witness`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privlib.sterling.chain import AnvilChain, EmbeddedChain
    from privlib.sterling.confidential import Rules
    from privlib.sterling.consumer import Consumer, Delivery
    from privlib.sterling.contract import TrainingContract
    from privlib.sterling.contracts.terms import JobState
    from privlib.sterling.executor import Executor
    from privlib.sterling.market import Listing, Market
    from privlib.sterling.provider import Offer, Provider
    from privlib.sterling.request import JobRequest
    from privlib.sterling.verify import ProgramPolicy, Verdict, training_program, verify_program
    from privlib.trusted.credentials import Issuer

_HOMES = {
    "privlib.sterling.chain": ("AnvilChain", "EmbeddedChain"),
    "privlib.sterling.confidential": ("Rules",),
    "privlib.sterling.consumer": ("Consumer", "Delivery"),
    "privlib.sterling.contract": ("TrainingContract",),
    "privlib.sterling.contracts.terms": ("JobState",),
    "privlib.sterling.executor": ("Executor",),
    "privlib.sterling.market": ("Listing", "Market"),
    "privlib.sterling.provider": ("Offer", "Provider"),
    "privlib.sterling.request": ("JobRequest",),
    "privlib.sterling.verify": ("ProgramPolicy", "Verdict", "training_program", "verify_program"),
    "privlib.trusted.credentials": ("Issuer",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AnvilChain",
    "Consumer",
    "Delivery",
    "EmbeddedChain",
    "Executor",
    "Issuer",
    "JobRequest",
    "JobState",
    "Listing",
    "Market",
    "Offer",
    "ProgramPolicy",
    "Provider",
    "Rules",
    "TrainingContract",
    "Verdict",
    "training_program",
    "verify_program",
]


def __getattr__(name: str) -> Any:
    """Names are looked up when they are used: who checks a program needs no chain."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
