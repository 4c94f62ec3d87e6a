"""The market's contracts in Vyper, and what off-chain code needs to speak with them.

DatasetRegistry      terms, price, budget, allowed measurements and signers, expiry, licence, revocation
JobEscrow            the life of a job: requested → granted → completed | failed | expired; payment split and refund
AttestationRegistry  quotes checked once, sessions that `ecrecover` recognises afterwards, revocation
BudgetLedger         Rényi curves in fixed point, one account per dataset
TransparencyLog      policies, measurements and programs, append-only, with inclusion proofs (RFC 9162)
StateCommitments     the newest state of every confidential contract

`privlib.sterling.contracts.market` deploys them; `terms` has their structs, `budget` their curves, `quotes` takes a
DCAP quote apart for them, `transparency` makes and checks proofs.
"""

from pathlib import Path

SOURCES = Path(__file__).parent
