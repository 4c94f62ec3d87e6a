"""Who sends a transaction: a secp256k1 key and its address (Ethereum yellow paper, appendix F)."""

import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from eth_account import Account as _Keys
from eth_account.signers.local import LocalAccount
from eth_typing import Hash32


@dataclass(frozen=True)
class Account:
    """A key pair under a name. key: 32 bytes, random unless given; never shown."""

    name: str
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @cached_property
    def _local(self) -> LocalAccount:
        return _Keys.from_key(self.key)

    @property
    def address(self) -> str:
        """20 bytes as checksummed hexadecimal (ERC-55)."""
        return str(self._local.address)

    def sign(self, digest: bytes) -> bytes:
        """A signature over a digest of 32 bytes: r ‖ s ‖ v, 65 bytes, s low, v 27 or 28, as `ecrecover` takes it."""
        return bytes(self._local.unsafe_sign_hash(Hash32(digest)).signature)

    def sign_transaction(self, fields: dict[str, Any]) -> bytes:
        """A signed transaction (EIP-2718), as a node takes it."""
        return bytes(self._local.sign_transaction(fields).raw_transaction)
