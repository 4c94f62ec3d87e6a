"""What an enclave believes of the chain: statements that witnesses have signed.

An enclave's host chooses what the enclave sees, so it reads no chain through it. A witness reads the chain and signs
what is final there; an enclave is told the witnesses' keys, and how many of them must say the same, when it is set up.
A light client's proof would stand here with a chain whose headers prove their finality; the embedded chain and a
development node have no such headers, so the witnesses SIMULATE one: who holds `threshold` of their keys can lie.

    signed     Ed25519 over "privlib finality v1" ‖ canonical JSON of the statement
    what       head        `value` is the newest state of the confidential contract `subject`
               granted     the job `subject` is granted: all its budgets are charged, nothing it rests on is revoked; to
                           an enclave of measurement `value`
               completed   the payment of the job `subject` has been split; `value` is the digest of its output
    nonce      the enclave's: a statement is not older than it
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privlib.errors import PrivlibError
from privlib.trusted.binding import encode
from privlib.trusted.bounded_json import read_json

HEAD, GRANTED, COMPLETED = "head", "granted", "completed"
NOTHING = "00" * 32
_LARGEST = 1 << 16


class FinalityError(PrivlibError):
    """Nobody trustworthy says that this is final on the chain; wait, or ask the witnesses again."""


@dataclass(frozen=True)
class Statement:
    """chain: id; escrow: the market's, 20 bytes; what: see above; subject, value, nonce: 32 bytes, all of them
    hexadecimal; block: the height it is final at; time: that block's, Unix seconds."""

    chain: int
    escrow: str
    what: str
    subject: str
    value: str
    nonce: str
    block: int
    time: int

    def encode(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def sign(self, key: Ed25519PrivateKey) -> tuple[str, str]:
        """(public key, signature), hexadecimal."""
        return key.public_key().public_bytes_raw().hex(), key.sign(_signed(self.encode())).hex()


@dataclass(frozen=True)
class Witnesses:
    """keys: Ed25519, hexadecimal; threshold: how many of them must have signed. Raises FinalityError."""

    keys: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(set(self.keys)) or len(set(self.keys)) != len(self.keys):
            raise FinalityError(f"{self.threshold} of {len(self.keys)} witnesses: name different keys, and no fewer")

    def read(self, text: bytes) -> Statement:
        """The statement in what `signed_statement` gives. Raises FinalityError."""
        if len(text) > _LARGEST:
            raise FinalityError(f"no statement about the chain: {len(text)} bytes, at most {_LARGEST} are read")
        try:
            value = read_json(text)
            statement = Statement(**value["statement"])
            signatures = {str(key): bytes.fromhex(each) for key, each in value["signatures"].items()}
            given = statement.encode()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FinalityError(f"no statement about the chain: {error}") from None
        good = [key for key in self.keys if key in signatures and _holds(key, signatures[key], given)]
        if len(good) < self.threshold:
            raise FinalityError(f"{len(good)} witnesses signed this, {self.threshold} must: ask more of them")
        return statement

    def require(self, text: bytes, **expected: object) -> Statement:
        """`read`, and every field named must be as expected. Raises FinalityError."""
        statement = self.read(text)
        for name, value in expected.items():
            if getattr(statement, name) != value:
                found = getattr(statement, name)
                raise FinalityError(f"the witnesses state {name} {found!r:.70}, not {value!r:.70}: ask for another")
        return statement


def signed_statement(statement: Statement, signatures: Sequence[tuple[str, str]] | Mapping[str, str]) -> bytes:
    """A statement with its signatures, as `Witnesses.read` takes it."""
    value = {"statement": asdict(statement), "signatures": dict(signatures)}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _signed(text: bytes) -> bytes:
    return encode(b"privlib finality v1", (text,))


def _holds(key: str, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, _signed(text))
    except (InvalidSignature, ValueError):
        return False
    return True
