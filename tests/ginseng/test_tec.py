"""The core's Python side: beats, sealed bursts, the model against `cryptography`; hostile input."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.ginseng.tec import (
    REGIONS,
    Kind,
    Ports,
    TecError,
    burst_nonce,
    measured_timing,
    message_beats,
    open_burst,
    seal_burst,
)
from privlib.ginseng.tec_model import TecModel

KEY = bytes(range(16))


def model_with_key(tensor: int, version: int, readable: int = 0) -> TecModel:
    model = TecModel()
    for ports in [
        Ports(rst=1),
        *[Ports()] * REGIONS,
        Ports(key_valid=1, key=int.from_bytes(KEY, "big")),
        *[Ports()] * 30,
    ]:
        model.step(ports)
    model.step(Ports(bind_valid=1, bind_enable=1, bind_tensor=tensor, bind_version=version, bind_next=readable))
    return model


def run(model: TecModel, beats: list[Ports]) -> tuple[bytes, bool, bytes]:
    """Data, verdict and tag of one message."""
    data, verdict, tag = b"", False, b""
    for ports in [*beats, *[Ports()] * 20]:
        seen = model.step(ports)
        if seen.out_valid and seen.out_last:
            verdict, tag = bool(seen.out_ok), seen.out_data.to_bytes(16, "big")
        elif seen.out_valid:
            data += seen.out_data.to_bytes(16, "big")[: seen.out_bytes or 16]
    return data, verdict, tag


@settings(max_examples=60, deadline=None)
@given(
    aad=st.lists(st.binary(max_size=40), max_size=4),
    data=st.lists(st.binary(max_size=60), max_size=5),
    seed=st.integers(0),
)
def test_any_chunking_equals_one_shot_gcm(aad: list[bytes], data: list[bytes], seed: int) -> None:
    rng = random.Random(seed)
    tensor, version, burst = (rng.getrandbits(32) for _ in range(3))
    whole = AESGCM(KEY).encrypt(burst_nonce(tensor, version, burst), b"".join(data), b"".join(aad))
    text, tag = whole[:-16], whole[-16:]
    written = run(
        model_with_key(tensor, version), message_beats(encrypt=True, region=0, burst=burst, aad=aad, data=data)
    )
    assert written == (text, True, tag)
    beats = message_beats(encrypt=False, region=0, burst=burst, aad=aad, data=[text], tag=tag)
    assert run(model_with_key(tensor, version, 2**32), beats) == (b"".join(data), True, bytes(16))


def test_packer_never_shows_the_chunking() -> None:
    body = bytes(range(100))
    chunkings = [[body], [body[:16], body[16:]], [b"", body], [body[i : i + 1] for i in range(100)]]
    streams = [message_beats(encrypt=True, region=1, burst=2, aad=[], data=chunks) for chunks in chunkings]
    assert all(stream == streams[0] for stream in streams)
    assert [beat.in_kind for beat in streams[0]] == [Kind.DATA] * 7 + [Kind.TAG]
    assert [beat.in_start for beat in streams[0]] == [1] + [0] * 7
    assert streams[0][6].in_bytes == 4


def test_burst_round_trip_and_every_tampering() -> None:
    text, tag = seal_burst(KEY, 1, 2, 3, b"tile" * 16, b"layer")
    assert open_burst(KEY, 1, 2, 3, text, tag, b"layer") == b"tile" * 16
    for place in [(9, 2, 3), (1, 9, 3), (1, 2, 9)]:
        with pytest.raises(TecError, match="changed, replayed or moved"):
            open_burst(KEY, *place, text, tag, b"layer")
    with pytest.raises(TecError, match="changed, replayed or moved"):
        open_burst(KEY, 1, 2, 3, bytes([text[0] ^ 1]) + text[1:], tag, b"layer")
    for size in (0, 4, 12, 15, 17):
        with pytest.raises(TecError, match="whole tags"):
            open_burst(KEY, 1, 2, 3, text, (tag + b"x")[:size], b"layer")


def test_equal_plaintexts_differ_in_place_and_time() -> None:
    places = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
    assert len({seal_burst(KEY, *place, bytes(64))[0] for place in places}) == 4


def test_measured_timing_has_the_bar_of_one_block_a_cycle() -> None:
    timing = measured_timing()
    assert timing.blocks_per_cycle == 1.0
    assert 0 < timing.latency_cycles <= timing.tag_latency_cycles
