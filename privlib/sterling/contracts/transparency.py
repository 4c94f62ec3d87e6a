"""Proofs over the transparency log: the Merkle tree of RFC 9162, section 2.1, from the log's events.

Used both to make proofs (who has all entries) and to check them (who has one entry and a root).
"""

import hashlib
from collections.abc import Sequence

from privlib.sterling.contracts.terms import LogKind
from privlib.sterling.errors import SterlingError


class ProofError(SterlingError):
    """A proof that does not show what it should."""


def entry(kind: LogKind, author: str, digest: bytes) -> bytes:
    """An entry as the log hashes it: kind ‖ author ‖ digest, 84 bytes."""
    return int(kind).to_bytes(32, "big") + bytes.fromhex(author.removeprefix("0x")) + digest


def root(entries: Sequence[bytes]) -> bytes:
    """The tree's root, 32 bytes (section 2.1.1)."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return _leaf(entries[0])
    half = _half(len(entries))
    return _inner(root(entries[:half]), root(entries[half:]))


def inclusion_proof(entries: Sequence[bytes], index: int) -> list[bytes]:
    """The path from entry `index` to the root, lowest first (section 2.1.3.1). Raises ProofError."""
    if not 0 <= index < len(entries):
        raise ProofError(f"entry {index}: the log has {len(entries)}")
    if len(entries) == 1:
        return []
    half = _half(len(entries))
    if index < half:
        return [*inclusion_proof(entries[:half], index), root(entries[half:])]
    return [*inclusion_proof(entries[half:], index - half), root(entries[:half])]


def check_inclusion(entry: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Raise ProofError unless the proof shows that `entry` is number `index` of the log of `size` entries with that
    root (section 2.1.3.2)."""
    if not 0 <= index < size:
        raise ProofError(f"entry {index} of {size}: there is none")
    at, last, node = index, size - 1, _leaf(entry)
    for sibling in proof:
        if last == 0:
            raise ProofError("the proof is longer than the tree is high")
        if at & 1 or at == last:
            node = _inner(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = _inner(node, sibling)
        at, last = at >> 1, last >> 1
    if last or node != expected:
        raise ProofError(f"the proof does not lead from entry {index} to the root {expected.hex()}")


def _leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def _inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _half(size: int) -> int:
    """The largest power of two below it."""
    return 1 << ((size - 1).bit_length() - 1)
