"""Gaussians from a ChaCha20 stream by Box and Muller's transform (1958), in float64 vectors.

Two 64-bit words give two normals. The first word, lengthened by ten bits of the second, is a 74-bit uniform u in
(0, 1], whose radius √(−2 ln u) is at most 10.2; of the second, 52 bits give an angle in [−π/4, π/4), one the sign of
its cosine, one exchanges cosine and sine: together an angle uniform on the circle in steps of 2⁻⁵⁴ of a turn.

    bit 63: exchange | 62: sign | 61 … 52: bits of u below 2⁻⁶⁴ | 51 … 0: angle

The ten bits are for the tail: radii made of 64 bits lie more than 2⁻³⁰ apart from 7.2 on (probability 2⁻³⁷ a pair),
where a grid of that step would show holes; with 74 bits that begins at 8.1 (probability 2⁻⁴⁷).

Layout, whatever the vector width and the number of cores: sixteen blocks (a segment) make 128 normals. Word 2r of
blocks 2j and 2j + 1 is the low and high half of a first word, word 2r + 1 of a second; they make elements 16r + j (from
the cosine) and 16r + 8 + j (from the sine), a row.
"""

import math
from collections.abc import Callable
from typing import Any

from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import chacha, elementary
from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.elementary import as_bits, as_integer, as_real, bits, real

LANES = 8  # normals computed side by side
ROW = 2 * LANES
SEGMENT = chacha.LANES * chacha.WORDS // 2
ROWS = SEGMENT // ROW
LARGEST = math.sqrt(2 * 75 * math.log(2))  # of u = 2⁻⁷⁵, the largest normal in standard deviations
SEGMENTS_PER_TASK = 32
_ONE_BITS = 0x3FF0000000000000


def box_muller(first: Expression, second: Expression, scale: float) -> tuple[Expression, Expression]:
    """Two independent normals with standard deviation `scale` from two uint64 words (vectors of LANES)."""
    ten_bits = T.bitwise_and(T.shift_right(second, bits(10, LANES)), bits(0x3FF << 42, LANES))
    fine = as_real(T.bitwise_or(ten_bits, bits(_ONE_BITS | 1 << 41, LANES)), LANES)  # 1 + (ten bits + ½) / 2¹⁰
    log = elementary.log(elementary.float_of_unsigned(first, fine - real(1.0, LANES), LANES), LANES, halvings=64)
    radius = T.Bind(T.sqrt(log * real(-2 * scale * scale, LANES)))
    fraction = T.bitwise_or(T.bitwise_and(second, bits((1 << 52) - 1, LANES)), bits(_ONE_BITS, LANES))
    angle = T.Bind((as_real(fraction, LANES) - real(1.5, LANES)) * real(math.pi / 2, LANES))
    sign = T.shift_left(T.shift_right(second, bits(62, LANES)), bits(63, LANES))  # bit 62 to float64's sign
    cosine = as_real(T.bitwise_xor(as_bits(elementary.cosine(angle, LANES), LANES), sign), LANES)
    x, y = T.Bind(radius * cosine), T.Bind(radius * elementary.sine(angle, LANES))
    exchange = as_integer(second, LANES) < T.broadcast(T.int64(0), LANES)
    return T.Bind(T.Select(exchange, y, x)), T.Bind(T.Select(exchange, x, y))


def segment(
    kernel: Kernel, key: Any, nonce: Any, index: Expression, scale: float, rows: int, body: Callable[..., None]
) -> None:
    """Call body(position in the segment, vector of LANES normals) over the first `rows` rows of segment `index`."""
    words = chacha.block_words(kernel, key, nonce, T.cast(index * chacha.LANES, "uint32"), chacha.LANES)
    stream = kernel.registers(chacha.WORDS * chacha.LANES, "uint32")
    for word, value in enumerate(words):
        kernel.store(stream, value, word * chacha.LANES, lanes=chacha.LANES)
    with T.serial(rows) as row:
        first, second = (
            as_bits(kernel.load(stream, (2 * row + half) * chacha.LANES, lanes=chacha.LANES), LANES) for half in (0, 1)
        )
        for half, normals in enumerate(box_muller(first, second, scale)):
            body(row * ROW + half * LANES, normals)


def task_count(size: int) -> int:
    """How many tasks `for_segments` cuts `size` elements into."""
    whole, rest = divmod(size, SEGMENT)
    return -(-whole // SEGMENTS_PER_TASK) + bool(rest)


def for_segments(size: int, task_body: Callable[[Expression, Callable[[Callable[..., None]], None]], None]) -> None:
    """Cut `size` elements (a multiple of ROW) into parallel tasks of whole segments; a last, shorter one comes after.

    Calls task_body(task, each); each(segment_body) writes the loop that calls segment_body(index, rows).
    """
    whole, rest = divmod(size, SEGMENT)
    if whole:
        with T.parallel(-(-whole // SEGMENTS_PER_TASK)) as task:

            def each(segment_body: Callable[..., None]) -> None:
                with T.serial(T.min(SEGMENTS_PER_TASK, whole - task * SEGMENTS_PER_TASK)) as at:
                    segment_body(T.Bind(task * SEGMENTS_PER_TASK + at), ROWS)

            task_body(task, each)
    if rest:
        task_body(task_count(size) - 1, lambda segment_body: segment_body(whole, rest // ROW))
