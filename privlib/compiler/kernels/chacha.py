"""ChaCha20 (RFC 8439, section 2.3) in counter mode as vectorized TIR: one lane of every vector is one block.

A block function is additions, rotations and exclusive ors of 32-bit words, so `lanes` blocks with consecutive counters
run side by side in sixteen vectors. The 96-bit nonce says which stream (a training step), the 32-bit counter which
block of it. A key with one nonce must never be used for two streams, so `stream_nonce` numbers them, and no stream may
be longer than 2³² blocks, where its counter would begin anew.
"""

from typing import Any

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine
from privlib.errors import PrivlibError

CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k", section 2.3
WORDS = 16  # 32-bit words of a block
# Blocks side by side. Sixteen where a vector holds eight words, too: two vectors hide each other's latencies, which
# outweighs what then spills from AVX2's sixteen registers (measured on Zen 3: 15% faster), and every CPU level makes
# the same stream in the same order.
LANES = 16
MAX_BLOCKS = 1 << 32
# a double round: four quarter rounds on columns, four on diagonals (section 2.3)
_ROUND = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


class StreamError(PrivlibError, ValueError):
    """Part of a stream would be used twice, or a key or nonce has the wrong length."""


def stream_nonce(step: int, stream: int = 0) -> np.ndarray:
    """The nonce, uint32 (3,), of training step 0 ≤ step < 2⁶⁴ in stream 0 ≤ stream < 2³².

    Different pairs have different nonces. Raises StreamError where a number does not fit.
    """
    if not (0 <= step < 1 << 64 and 0 <= stream < 1 << 32):
        raise StreamError(f"no nonce is left for step {step} of stream {stream}; go on with a fresh key")
    return np.array([step & 0xFFFFFFFF, step >> 32, stream], "uint32")


def check_blocks(blocks: int) -> None:
    """StreamError where a stream from counter 0 on would pass its last block."""
    if blocks > MAX_BLOCKS:
        raise StreamError(f"{blocks} blocks do not fit a 32-bit counter; cut the vector over several nonces")


def block_words(kernel: Kernel, key: Any, nonce: Any, counter: Expression, lanes: int) -> list[Expression]:
    """The sixteen words of blocks counter … counter + lanes − 1, as vectors of `lanes` uint32.

    key: uint32 buffer (8,), nonce: uint32 buffer (3,), both little-endian words; counter: a uint32 scalar.
    """

    def splat(word: Expression) -> Expression:
        return T.broadcast(word, lanes)

    start = [splat(T.uint32(word)) for word in CONSTANTS]
    start += [splat(key[i]) for i in range(8)]
    start.append(splat(counter) + T.cast(T.ramp(T.int32(0), 1, lanes), f"uint32x{lanes}"))
    start += [splat(nonce[i]) for i in range(3)]
    initial = [T.Bind(word) for word in start]
    state = kernel.registers(WORDS * lanes, "uint32")

    def get(word: int) -> Expression:
        return kernel.load(state, word * lanes, lanes=lanes)

    def put(word: int, value: Expression) -> None:
        kernel.store(state, value, word * lanes, lanes=lanes)

    def rotate(value: Expression, bits: int) -> Expression:
        left, right = splat(T.uint32(bits)), splat(T.uint32(32 - bits))
        bound = T.Bind(value)
        return T.bitwise_or(T.shift_left(bound, left), T.shift_right(bound, right))

    for word in range(WORDS):
        put(word, initial[word])
    with T.serial(10):
        for a, b, c, d in _ROUND:
            for to, added, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                put(to, get(to) + get(added))
                put(turned, rotate(T.bitwise_xor(get(turned), get(to)), bits))
    return [T.Bind(get(word) + initial[word]) for word in range(WORDS)]


def keystream(machine: Machine, blocks: int) -> "tvm.tirx.PrimFunc":
    """Arguments: key uint32 (8,), nonce uint32 (3,), counter uint32 (1,), words uint32 (blocks, 16).

    blocks is a multiple of LANES. A counter that would pass 2³² fails at run time (RuntimeError). For tests against
    published vectors; noise never stores its stream.
    """
    if blocks % LANES:
        raise StreamError(f"blocks must be a multiple of {LANES}, got {blocks}")
    check_blocks(blocks)
    kernel = Kernel(machine, "float32")
    with kernel.function():
        key, nonce = kernel.argument("key", (8,), "uint32"), kernel.argument("nonce", (3,), "uint32")
        counter = kernel.argument("counter", (1,), "uint32")
        words = kernel.argument("words", (blocks, WORDS), "uint32")
        fits = T.cast(counter[0], "int64") <= T.int64(MAX_BLOCKS - blocks)
        message = "the 32-bit block counter would begin anew; use another nonce"
        with T.Assert(fits, message), T.parallel(blocks // LANES) as group:
            first = T.Bind(counter[0] + T.cast(group * LANES, "uint32"))
            made = block_words(kernel, key, nonce, first, LANES)
            for word in range(WORDS):
                column = kernel.registers(LANES, "uint32")
                kernel.store(column, made[word], 0, lanes=LANES)
                for lane in range(LANES):
                    T.buffer_store(words, column[lane], [group * LANES + lane, word])
    return kernel.finish()


def words_of(data: bytes) -> np.ndarray:
    """Little-endian uint32 words of a key (32 bytes) or nonce (12 bytes), as RFC 8439 reads them."""
    if len(data) not in (12, 32):
        raise StreamError(f"a key has 32 bytes and a nonce 12, got {len(data)}")
    return np.frombuffer(data, "<u4").astype("uint32")
