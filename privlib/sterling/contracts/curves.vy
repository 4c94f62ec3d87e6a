# pragma version 0.4.3
"""
@title Rényi curves in fixed point
@license Apache-2.0
@notice A curve is a Rényi divergence at 16 fixed orders (privlib.sterling.verify.ORDERS), in units of 10⁻⁹ nats, four
        lanes of 64 bits a word, order 0 in the lowest bits of word 0. Rényi divergences of one order add up under
        adaptive composition (Mironov 2017), so curves are added lane by lane. The highest value of a lane stands for
        infinity: it stays what it is whatever is added or taken away, so that what was once lost in it is never
        forgotten in the consumer's favour.
"""

WORDS: constant(uint256) = 4
LANES: constant(uint256) = 4  # a word
LANE: constant(uint256) = 2**64 - 1
INFINITE: constant(uint256) = LANE


@internal
@pure
def _add(a: uint256[4], b: uint256[4]) -> uint256[4]:
    total: uint256[4] = empty(uint256[4])
    for word: uint256 in range(WORDS):
        for lane: uint256 in range(LANES):
            at: uint256 = 64 * lane
            x: uint256 = (a[word] >> at) & LANE
            y: uint256 = (b[word] >> at) & LANE
            total[word] |= min(x + y, INFINITE) << at
    return total


@internal
@pure
def _subtract(a: uint256[4], b: uint256[4]) -> uint256[4]:
    """
    @notice What was added before. An infinite lane stays infinite.
    """
    rest: uint256[4] = empty(uint256[4])
    for word: uint256 in range(WORDS):
        for lane: uint256 in range(LANES):
            at: uint256 = 64 * lane
            x: uint256 = (a[word] >> at) & LANE
            y: uint256 = (b[word] >> at) & LANE
            rest[word] |= (x if x == INFINITE else x - y) << at
    return rest


@internal
@pure
def _within(curve: uint256[4], caps: uint256[4]) -> bool:
    """
    @notice Whether some order is within its cap. A cap of zero admits nothing, an infinite lane is within no cap.
    """
    for word: uint256 in range(WORDS):
        for lane: uint256 in range(LANES):
            at: uint256 = 64 * lane
            x: uint256 = (curve[word] >> at) & LANE
            if x != INFINITE and x <= (caps[word] >> at) & LANE:
                return True
    return False
