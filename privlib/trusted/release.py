"""What an enclave signs when trained parameters leave it.

claims        canonical JSON, see `claims`
key           Ed25519, 32 bytes, made by the enclave for its lifetime
quote         report data bind `key` to SHA-256(claims) and "privlib release" (`privlib.trusted.binding`)
signature     Ed25519 over "privlib release v1" and the claims, 64 bytes
parameters/…  arrays by name; the claims hold their digest

They make up a message of kind "release" (`privlib.trusted.protocol`), which is also what a release's file holds.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.trusted import renyi
from privlib.trusted.binding import encode, report_data
from privlib.trusted.ledger import parse
from privlib.trusted.platform import Platform
from privlib.trusted.protocol import Message
from privlib.trusted.sealed_ledger import SealedLedger
from privlib.trusted.terms import Terms

if TYPE_CHECKING:  # who verifies a release does not wait for TVM to load
    from privlib.trusted.training import TrainingStep

FORMAT = 1
PURPOSE = "privlib release"
PARAMETERS = "parameters/"


class ReleaseIssuer:
    """Signs an enclave's releases, with a key that only it holds."""

    def __init__(self, platform: Platform) -> None:
        self._platform, self._key = platform, Ed25519PrivateKey.generate()

    def issue(self, step: "TrainingStep", spent: Sequence[tuple[SealedLedger, str, Terms]]) -> Message:
        """The release of what `step` holds now. spent: for every dataset its ledger, digest and terms."""
        parameters = step.parameters()
        datasets = [dataset_claim(digest, terms, ledger.text) for ledger, digest, terms in spent]
        text = canonical(
            {
                "release": FORMAT,
                "program": step.digest,
                "model": model_digest(parameters),
                "updates": step.steps,
                "issued": int(time.time()),
                "datasets": datasets,
            }
        )
        key = self._key.public_key().public_bytes_raw()
        signed = {
            "claims": text,
            "key": key,
            "signature": self._key.sign(signed_text(text)),
            "quote": self._platform.quote(bound_report_data(key, text)),
        }
        arrays = {name: np.frombuffer(value, np.uint8) for name, value in signed.items()}
        return Message("release", arrays=arrays | {PARAMETERS + name: value for name, value in parameters.items()})


def dataset_claim(digest: str, terms: Terms, ledger: bytes) -> dict[str, Any]:
    """What is claimed of one dataset: its ciphertext's SHA-256, the provider's terms, the ledger's lines (each covers
    those before it) with the last one's SHA-256, and ε at δ of all that it was charged for (None: no bound)."""
    found = parse(digest, ledger)
    epsilon = renyi.epsilon(found.events, terms.delta)
    return {
        "dataset": digest,
        "terms": terms.encode().decode(),
        "epsilon": epsilon if epsilon < math.inf else None,
        "delta": terms.delta,
        "ledger": ledger.decode(),
        "ledger_sha256": found.hashes[-1],
    }


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def signed_text(claims: bytes) -> bytes:
    """What the enclave's key signs."""
    return encode(b"privlib release v1", (claims,))


def bound_report_data(key: bytes, claims: bytes) -> bytes:
    """Report data of a release's quote, 64 bytes."""
    return report_data(key, hashlib.sha256(claims).digest(), PURPOSE)


def model_digest(parameters: Mapping[str, np.ndarray]) -> str:
    """SHA-256, hexadecimal, over names, types, shapes and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256(b"privlib model v1")
    for name, value in sorted(parameters.items()):
        head = canonical([name, str(value.dtype), list(value.shape)])
        digest.update(encode(b"", (head,)))
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
