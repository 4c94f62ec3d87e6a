"""Attested private work: quotes and their verification.

`verify_quote` holds a DCAP quote against a `QuotePolicy`; `SimulatedRoot` stands for the hardware where there is none.
"""

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import AttestationError
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.verify import VerifiedQuote, verify_quote

__all__ = ["AttestationError", "QuotePolicy", "SimulatedRoot", "VerifiedQuote", "verify_quote"]
