"""Random choices for sampling: ChaCha20 (RFC 8439) keystreams, each under a fresh key from the operating system.

A key serves one draw, so that nothing is left in memory to predict or reconstruct another, and a forked process never
shares a stream. A test key in its place makes draws repeatable; its user must say that the run is not private.
"""

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

KEY_BYTES = 32


class Stream:
    """The keystream of one draw. key: 32 bytes, None for a fresh one; number (below 2⁶⁴) tells a key's draws apart."""

    def __init__(self, key: bytes | None = None, number: int = 0) -> None:
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
        nonce = bytes(8) + number.to_bytes(8, "little")  # the first 8 bytes count blocks
        self._cipher = Cipher(ChaCha20(key or os.urandom(KEY_BYTES), nonce), mode=None).encryptor()

    def words(self, count: int) -> np.ndarray:
        """uint64 (count,), independent and uniform."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), "<u8").astype(np.uint64, copy=False)

    def below(self, bound: int, count: int) -> np.ndarray:
        """int64 (count,), uniform in 0 … bound − 1, exactly: words past the last whole multiple are drawn anew."""
        limit = np.uint64((2**64 // bound) * bound - 1)
        words = self.words(count).copy()
        while (late := words > limit).any():
            words[late] = self.words(int(late.sum()))
        return (words % np.uint64(bound)).astype(np.int64)

    def chosen(self, probability: float, count: int) -> np.ndarray:
        """int64, sorted: each of 0 … count − 1 independently with probability rounded down to a multiple of 2⁻⁶⁴."""
        if probability >= 1:
            return np.arange(count)
        return np.flatnonzero(self.words(count) < np.uint64(int(probability * 2**64)))

    def shuffled(self, values: np.ndarray) -> np.ndarray:
        """The values in a uniformly random order: sorted by random words (two equal ones are seen with probability
        below n² · 2⁻⁶⁵)."""
        return values[np.argsort(self.words(len(values)), kind="stable")]

    def subsets(self, size: int, universe: int, count: int) -> np.ndarray:
        """int64 (count, size): independent uniformly random subsets of 0 … universe − 1 (Floyd's algorithm, 1987)."""
        subsets = np.full((count, size), -1, np.int64)
        for column, last in enumerate(range(universe - size, universe)):
            drawn = self.below(last + 1, count)
            taken = (subsets[:, :column] == drawn[:, None]).any(1)
            subsets[:, column] = np.where(taken, last, drawn)
        return subsets
