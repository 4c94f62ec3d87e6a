"""How a policy is asked: the one function that its bytecode must have, in Solidity's ABI.

    evaluate(bytes32 job, bytes32 consumer, bytes32 purpose, bytes32 identity_class, bytes32 licence,
             uint256 micro_epsilon, uint256 price)

It reverts to refuse, and whatever it writes to its storage is its new state. consumer: Ed25519 key that the credentials
were issued to; purpose, identity_class, licence: SHA-256 of the claimed texts, zero where nothing is claimed;
micro_epsilon: what the job costs the dataset by the provider's accountant, in millionths, rounded up; price: wei locked
for the dataset; block.timestamp: of the block that was final when it was asked.
"""

import hashlib
from collections.abc import Mapping

from privlib.errors import PrivlibError
from privlib.trusted.credentials import CLAIMS

SIGNATURE = "evaluate(bytes32,bytes32,bytes32,bytes32,bytes32,uint256,uint256)"
SELECTOR = bytes.fromhex("701f9a79")  # Keccak-256 of SIGNATURE, its first 4 bytes


class CallError(PrivlibError):
    """Numbers that no policy can be asked about."""


def claim_word(text: str) -> bytes:
    """A claim as a policy sees it, 32 bytes."""
    return hashlib.sha256(text.encode()).digest() if text else bytes(32)


def evaluation(job: str, consumer: bytes, claims: Mapping[str, str], micro_epsilon: int, price: str) -> bytes:
    """Selector and arguments. job: 32 bytes, hexadecimal; price: wei, decimal digits. Raises CallError."""
    if not isinstance(price, str) or not price.isdecimal() or len(price) > 77:
        raise CallError(f"price is wei in decimal digits, got {price!r:.40}")
    if type(micro_epsilon) is not int or not 0 <= micro_epsilon < 1 << 64:
        raise CallError(f"epsilon is a whole number of millionths, got {micro_epsilon!r:.40}")
    words = [bytes.fromhex(job), consumer, *(claim_word(claims.get(name, "")) for name in CLAIMS)]
    return SELECTOR + b"".join(words) + micro_epsilon.to_bytes(32, "big") + int(price).to_bytes(32, "big")
