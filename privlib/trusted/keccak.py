"""Keccak-256 as Ethereum uses it (the Keccak submission's padding, not FIPS 202's): nothing that runs inside has it."""

_ROUNDS = 24
_RATE = 136
_MASK = (1 << 64) - 1


def _constants() -> tuple[list[int], list[int]]:
    """Round constants by the LFSR of FIPS 202, algorithm 5; rotations by section 3.2.2, at x + 5y."""
    register, constants = 1, []
    for _ in range(_ROUNDS):
        constant = 0
        for bit in range(7):
            constant |= (register & 1) << ((1 << bit) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    rotations, x, y = [0] * 25, 1, 0
    for step in range(24):
        rotations[x + 5 * y] = (step + 1) * (step + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return constants, rotations


_CONSTANTS, _ROTATIONS = _constants()


def keccak(data: bytes) -> bytes:
    """The digest, 32 bytes."""
    padded = bytearray(data) + b"\1" + bytes(-(len(data) + 1) % _RATE)
    padded[-1] |= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE):
        for index in range(_RATE // 8):
            lanes[index] ^= int.from_bytes(padded[start + 8 * index : start + 8 * index + 8], "little")
        lanes = _permuted(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _permuted(a: list[int]) -> list[int]:
    """Keccak-f[1600]: θ, ρ and π, χ, ι (FIPS 202, section 3.2)."""
    for constant in _CONSTANTS:
        parity = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
        change = [parity[(x + 4) % 5] ^ _rotated(parity[(x + 1) % 5], 1) for x in range(5)]
        b = [0] * 25
        for y in range(5):
            for x in range(5):
                b[y + 5 * ((2 * x + 3 * y) % 5)] = _rotated(a[x + 5 * y] ^ change[x], _ROTATIONS[x + 5 * y])
        a = [b[x + 5 * y] ^ (~b[(x + 1) % 5 + 5 * y] & b[(x + 2) % 5 + 5 * y]) for y in range(5) for x in range(5)]
        a[0] ^= constant
    return a


def _rotated(lane: int, count: int) -> int:
    return ((lane << count) | (lane >> (64 - count))) & _MASK
