"""What a provider lets an enclave do with a dataset: bound to the ciphertext when it is encrypted, and to its key when
that is delivered, so that nobody who hands either over can change it."""

import json
import math
from dataclasses import dataclass

from privlib.errors import PrivlibError
from privlib.trusted.bounded_json import read_json
from privlib.trusted.ledger import Budget

_IDENTITY_BYTES, _MAXIMUM_CONSUMERS = 32, 256
_HEXADECIMAL = frozenset("0123456789abcdef")


class TermsError(PrivlibError, ValueError):
    """Terms that say nothing sensible, or not in their canonical form."""


@dataclass(frozen=True)
class Terms:
    """epsilon, delta: what all training together may reach (epsilon None: no limit, also training without noise; an
    enclave of another measurement that gets the key counts anew). consumers: Ed25519 public keys (32 bytes) of who may
    have it trained on; None: whoever opens a channel. policy, chain: SHA-256 (hexadecimal) of the deployment code of
    the EVM policy that keeps the key, and the id of the chain that keeps the budget; both or neither. A dataset with a
    policy is trained on for jobs of that market alone (`privlib.trusted.grant`).

    Raises TermsError.
    """

    epsilon: float | None
    delta: float = 1e-5
    consumers: frozenset[bytes] | None = None
    policy: str | None = None
    chain: int | None = None

    def __post_init__(self) -> None:
        numbers = [self.delta] if self.epsilon is None else [self.epsilon, self.delta]
        real = all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)
        if not real or not 0 < self.delta < 1 or not 0 < (1 if self.epsilon is None else self.epsilon) < math.inf:
            raise TermsError(f"terms have epsilon > 0 or None and 0 < delta < 1, got {self.epsilon} and {self.delta}")
        if self.consumers is not None:
            object.__setattr__(self, "consumers", frozenset(self.consumers))
            if len(self.consumers) > _MAXIMUM_CONSUMERS or any(len(each) != _IDENTITY_BYTES for each in self.consumers):
                raise TermsError(f"consumers are at most {_MAXIMUM_CONSUMERS} keys of {_IDENTITY_BYTES} bytes")

        if (self.policy is None) != (self.chain is None):
            raise TermsError("terms name a policy and its chain, or neither")
        known = isinstance(self.policy, str) and len(self.policy) == 64 and set(self.policy) <= _HEXADECIMAL
        if self.policy is not None and not known:
            raise TermsError("a policy is named by SHA-256, 64 hexadecimal digits")
        if self.chain is not None and (type(self.chain) is not int or not 0 < self.chain < 1 << 63):
            raise TermsError(f"a chain id is a whole number from 1, got {self.chain!r:.40}")

    @property
    def budget(self) -> Budget | None:
        return None if self.epsilon is None else Budget(self.epsilon, self.delta)

    def allow(self, client: bytes | None) -> bool:
        """Whether a client with this proven identity (None: it proved none) may have it trained on."""
        return self.consumers is None or client in self.consumers

    def encode(self) -> bytes:
        """Canonical JSON; what names no policy has no such entries."""
        consumers = None if self.consumers is None else sorted(each.hex() for each in self.consumers)
        value: dict[str, object] = {"consumers": consumers, "delta": self.delta, "epsilon": self.epsilon}
        if self.policy is not None:
            value |= {"policy": self.policy, "chain": self.chain}
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> "Terms":
        """TermsError for anything but what `encode` gives."""
        try:
            value = read_json(data)
            consumers = value["consumers"]
            named = None if consumers is None else frozenset(bytes.fromhex(each) for each in consumers)
            terms = Terms(value["epsilon"], value["delta"], named, value.get("policy"), value.get("chain"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TermsError(f"no terms of use: {error}") from None
        if terms.encode() != data:
            raise TermsError("no terms of use: not in canonical form")
        return terms
