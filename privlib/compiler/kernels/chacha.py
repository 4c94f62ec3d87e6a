"""ChaCha20 (RFC 8439, section 2.3) in counter mode as vectorized TIR: one lane of every vector is one block.

A block function is additions, rotations and exclusive ors of 32-bit words, so `lanes` blocks with consecutive counters
run side by side in sixteen vectors. The 96-bit nonce says which stream (a training step), the 32-bit counter which
block of it; a key with one nonce must never be used for two streams, and no stream is longer than 2³² blocks.
"""

from collections.abc import Sequence
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine

CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k", section 2.3
WORDS = 16  # 32-bit words of a block
# a double round: four quarter rounds on columns, four on diagonals (section 2.3)
_ROUND = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def word_lanes(machine: Machine) -> int:
    """Blocks that run side by side: 32-bit lanes of a vector."""
    return machine.vector_bytes // 4


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

    blocks is a multiple of `word_lanes`. For tests against published vectors; noise never stores its stream.
    """
    kernel, lanes = Kernel(machine, "float32"), word_lanes(machine)
    if blocks % lanes:
        raise ValueError(f"blocks must be a multiple of {lanes}, got {blocks}")
    with kernel.function():
        key, nonce = kernel.argument("key", (8,), "uint32"), kernel.argument("nonce", (3,), "uint32")
        counter = kernel.argument("counter", (1,), "uint32")
        words = kernel.argument("words", (blocks, WORDS), "uint32")
        with T.parallel(blocks // lanes) as group:
            first = T.Bind(counter[0] + T.cast(group * lanes, "uint32"))
            made = block_words(kernel, key, nonce, first, lanes)
            for word in range(WORDS):
                column = kernel.registers(lanes, "uint32")
                kernel.store(column, made[word], 0, lanes=lanes)
                for lane in range(lanes):
                    T.buffer_store(words, column[lane], [group * lanes + lane, word])
    return kernel.finish()


def words_of(data: bytes) -> Sequence[int]:
    """Little-endian 32-bit words of a key or nonce, as RFC 8439 reads them."""
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
