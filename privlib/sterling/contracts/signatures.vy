# pragma version 0.4.3
"""
@title Signatures of enclaves' secp256k1 accounts
@license Apache-2.0
@notice r || s || v, 65 bytes, with s in the lower half of the order (EIP-2): of each signature one form alone.
"""

HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168


@internal
@pure
def signer(digest: bytes32, signature: Bytes[65]) -> address:
    """
    @dev Reverts for anything but one signature in its one form.
    """
    assert len(signature) == 65, "signature: length"
    s: uint256 = extract32(signature, 32, output_type=uint256)
    assert s <= HALF_ORDER, "signature: high s"
    found: address = ecrecover(
        digest,
        convert(slice(signature, 64, 1), uint256),
        extract32(signature, 0, output_type=uint256),
        s,
    )
    assert found != empty(address), "signature: nobody's"
    return found
