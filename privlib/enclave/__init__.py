"""Attested private work: quotes and their verification, channels and keys for what was verified, sealed state.

`verify_quote` holds a DCAP quote against a `QuotePolicy`; `SimulatedRoot` stands for the hardware where there is none.
`open_channel` and `deliver_key` talk to an enclave only once its quote has been verified.
"""

from privlib.enclave.channel import open_channel
from privlib.enclave.datasets import encrypt_dataset
from privlib.enclave.delivery import deliver_key
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import AttestationError
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.verify import VerifiedQuote, verify_quote
from privlib.trusted.sealing import seal, unseal

__all__ = [
    "AttestationError",
    "QuotePolicy",
    "SimulatedRoot",
    "VerifiedQuote",
    "deliver_key",
    "encrypt_dataset",
    "open_channel",
    "seal",
    "unseal",
    "verify_quote",
]
