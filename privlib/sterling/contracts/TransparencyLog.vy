# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title An append-only log of policies and measurements
@license Apache-2.0
@notice The Merkle tree of RFC 9162, section 2.1 (SHA-256; a leaf hash is over 0x00 ‖ entry, an inner one over
        0x01 ‖ left ‖ right), so that any verifier of Certificate Transparency's inclusion and consistency proofs reads
        it. An entry is kind ‖ author ‖ digest: 32, 20 and 32 bytes. Anybody may append; who did is part of the entry.
        Only the roots of the tree's full subtrees are stored, one for each bit of its size; the entries are the events,
        from which proofs are made (privlib.sterling.contracts.transparency).
"""
event Appended:
    index: indexed(uint256)
    kind: indexed(uint256)
    author: indexed(address)
    digest: bytes32
    root: bytes32  # of the tree with this entry


# Kinds of entry.
POLICY: constant(uint256) = 1
MEASUREMENT: constant(uint256) = 2
PROGRAM: constant(uint256) = 3

DEPTH: constant(uint256) = 40  # more entries than anybody will pay for

size: public(uint256)
root: public(bytes32)
index_of: public(HashMap[bytes32, uint256])  # of an entry's leaf hash: its first index plus one
_subtrees: HashMap[uint256, bytes32]  # by height


@deploy
def __init__():
    self.root = sha256(b"")


@external
def append(kind: uint256, digest: bytes32) -> uint256:
    """
    @notice Add an entry; its index.
    """
    assert POLICY <= kind and kind <= PROGRAM, "log: no such kind"
    index: uint256 = self.size
    assert index < 2**DEPTH - 1, "log: full"
    leaf: bytes32 = self._leaf(kind, msg.sender, digest)
    node: bytes32 = leaf
    height: uint256 = 0
    for level: uint256 in range(DEPTH):
        if (index >> level) & 1 == 0:
            height = level
            break
        node = self._inner(self._subtrees[level], node)
    self._subtrees[height] = node
    for level: uint256 in range(DEPTH):  # the full subtrees that stand left of it
        if level > height and (index >> level) & 1 == 1:
            node = self._inner(self._subtrees[level], node)
    self.size = index + 1
    self.root = node
    if self.index_of[leaf] == 0:
        self.index_of[leaf] = index + 1
    log Appended(index=index, kind=kind, author=msg.sender, digest=digest, root=node)
    return index


@external
@view
def includes(kind: uint256, author: address, digest: bytes32) -> bool:
    """
    @notice Whether such an entry was appended.
    """
    return self.index_of[self._leaf(kind, author, digest)] != 0


@internal
@pure
def _leaf(kind: uint256, author: address, digest: bytes32) -> bytes32:
    return sha256(concat(x"00", convert(kind, bytes32), convert(author, bytes20), digest))


@internal
@pure
def _inner(left: bytes32, right: bytes32) -> bytes32:
    return sha256(concat(x"01", left, right))
