"""ChaCha20 against RFC 8439's vectors and an independent implementation (the `cryptography` package)."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from tvm.runtime import tensor

from privlib.compiler.kernels import chacha
from tests.compiler.kernel_harness import MACHINES, build

# RFC 8439: section 2.3.2, and appendix A.1 test vectors 1 to 5 (key, nonce, counter, block)
VECTORS = [
    (
        bytes(range(32)), "000000090000004a00000000", 1,
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
    (
        bytes(32), "000000000000000000000000", 0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        bytes(32), "000000000000000000000000", 1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    (
        bytes(31) + b"\x01", "000000000000000000000000", 1,
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    (
        b"\x00\xff" + bytes(30), "000000000000000000000000", 2,
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
    (
        bytes(32), "000000000000000000000002", 0,
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
]  # fmt: skip


def stream(name: str, key: bytes, nonce: bytes, counter: int, blocks: int) -> bytes:
    function = build(MACHINES[name], f=chacha.keystream(MACHINES[name], blocks))["f"]
    inputs = [chacha.words_of(key), chacha.words_of(nonce), np.array([counter], "uint32")]
    words = tensor(np.zeros((blocks, 16), "uint32"))
    function(*map(tensor, inputs), words)
    return bytes(words.numpy().astype("<u4").tobytes())


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(("key", "nonce", "counter", "block"), VECTORS, ids=lambda _: "")
def test_published_blocks(name: str, key: bytes, nonce: str, counter: int, block: str) -> None:
    assert stream(name, key, bytes.fromhex(nonce), counter, chacha.LANES)[:64].hex() == block


@pytest.mark.parametrize("name", MACHINES)
def test_published_encryption(name: str) -> None:
    """RFC 8439, section 2.4.2: the text, exclusive or the stream from counter 1 on, is the published ciphertext."""
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    published = bytes.fromhex(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357"
        "1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )
    made = stream(name, bytes(range(32)), bytes.fromhex("000000000000004a00000000"), 1, 16)
    assert bytes(a ^ b for a, b in zip(text, made, strict=False)) == published


@pytest.mark.parametrize("name", MACHINES)
def test_long_stream_equals_another_implementation(name: str) -> None:
    key, nonce, counter = bytes(range(100, 132)), bytes(range(50, 62)), 7
    other = Cipher(algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce), mode=None).encryptor()
    assert stream(name, key, nonce, counter, 96) == other.update(bytes(96 * 64))


def test_last_block_is_made_and_the_counter_never_begins_anew() -> None:
    key, nonce, last = bytes(range(32)), bytes(12), chacha.MAX_BLOCKS - chacha.LANES
    other = Cipher(algorithms.ChaCha20(key, last.to_bytes(4, "little") + nonce), mode=None).encryptor()
    assert stream("narrow", key, nonce, last, chacha.LANES) == other.update(bytes(64 * chacha.LANES))
    with pytest.raises(RuntimeError, match="begin anew"):
        stream("narrow", key, nonce, last + 1, chacha.LANES)
    with pytest.raises(chacha.StreamError, match="32-bit counter"):
        chacha.check_blocks(chacha.MAX_BLOCKS + 1)
    chacha.check_blocks(chacha.MAX_BLOCKS)


def test_every_step_and_stream_has_a_nonce_of_its_own() -> None:
    numbers = [0, 1, 2, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]
    nonces = [chacha.stream_nonce(step, stream) for step in numbers for stream in (0, 1, (1 << 32) - 1)]
    assert len({nonce.tobytes() for nonce in nonces}) == len(nonces)
    assert all(nonce.shape == (3,) and nonce.dtype == "uint32" for nonce in nonces)


@pytest.mark.parametrize(("step", "stream"), [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)])
def test_numbers_without_a_nonce_are_refused(step: int, stream: int) -> None:
    with pytest.raises(chacha.StreamError, match="fresh key"):
        chacha.stream_nonce(step, stream)


def test_keys_and_blocks_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(chacha.StreamError, match="32 bytes"):
        chacha.words_of(bytes(31))
    with pytest.raises(chacha.StreamError, match="multiple of 16"):
        chacha.keystream(MACHINES["narrow"], 8)
