"""Random port traces for the Tensor Encryption Core, legal and illegal alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from privlib.ginseng.tec import REGIONS, Kind, Ports, message_beats

SLOTS_USED = 3
REGIONS_USED = 4


def _message(rng: random.Random, next_write: dict[int, int]) -> list[Ports]:
    region = rng.randrange(REGIONS_USED)
    encrypt = rng.random() < 0.6
    burst = next_write.get(region, 0) if encrypt else rng.randrange(8)
    if rng.random() < 0.1:
        burst = rng.choice([0, burst + 1, 2**32 - 1])
    if encrypt:
        next_write[region] = burst + 1 & 0xFFFFFFFF
    aad = [rng.randbytes(rng.choice([0, 0, 1, 16, 20, 40]))]
    data = [rng.randbytes(rng.choice([0, 1, 13, 16, 32, 50, 96]))]
    return message_beats(encrypt=encrypt, region=region, burst=burst, aad=aad, data=data, tag=rng.randbytes(16))


def _broken(rng: random.Random, beats: list[Ports]) -> list[Ports]:
    """A message with one rule broken, or cut short."""
    beats = list(beats)
    at = rng.randrange(len(beats))
    match rng.randrange(4):
        case 0:
            return beats[:at]
        case 1:
            beats[at] = replace(beats[at], in_kind=rng.randrange(4))
        case 2:
            beats[at] = replace(beats[at], in_bytes=rng.randrange(16))
        case _:
            beats[at] = replace(beats[at], in_start=1 - beats[at].in_start)
    return beats


def _input_stream(rng: random.Random) -> Iterator[Ports]:
    next_write: dict[int, int] = {}
    while True:
        beats = _message(rng, next_write)
        yield from _broken(rng, beats) if rng.random() < 0.1 else beats


def _monitor(rng: random.Random, rate: float) -> dict[str, int]:
    """Signals of the key and region ports in one cycle."""
    signals: dict[str, int] = {}
    if rng.random() < rate:
        signals |= {"key_valid": 1, "key_clear": int(rng.random() < 0.3), "key_slot": rng.randrange(SLOTS_USED)}
        signals["key"] = rng.getrandbits(128)
    if rng.random() < rate:
        signals |= {
            "bind_valid": int(rng.random() < 0.7),
            "bump_valid": int(rng.random() < 0.5),
            "bind_region": rng.randrange(REGIONS_USED),
            "bind_enable": int(rng.random() < 0.9),
            "bind_tensor": rng.getrandbits(32),
            "bind_version": rng.choice([0, 2**32 - 1, rng.getrandbits(32)]),
            "bind_next": rng.choice([0, 4, 2**32]),
            "bind_slot": rng.randrange(SLOTS_USED),
        }
    return signals


def random_trace(seed: int, cycles: int) -> list[Ports]:
    """`cycles` cycles: set-up, messages with gaps, back-pressure, broken rules, key changes and resets in mid-stream.

    The trace is open loop: a beat is offered for a few cycles whether or not it is taken, so beats are lost and
    doubled too.
    """
    rng = random.Random(seed)
    stream = _input_stream(rng)
    trace = [Ports(rst=1)] + [Ports()] * REGIONS
    for slot in range(SLOTS_USED):
        trace += [Ports(key_valid=1, key_slot=slot, key=rng.getrandbits(128))] + [Ports()] * 26
    for region in range(REGIONS_USED):
        trace.append(Ports(bind_valid=1, bind_region=region, bind_enable=1, bind_tensor=region, bind_slot=region % 3))
    stall, gap, rate = 0.0, 0.0, 0.0
    while len(trace) < cycles:
        if len(trace) % 128 == 0:
            stall, gap = rng.choice([0.0, 0.0, 0.3, 0.9]), rng.choice([0.0, 0.0, 0.3, 0.8])
            rate = rng.choice([0.0, 0.0, 0.0, 0.02, 0.1])
        beat = next(stream) if rng.random() >= gap else Ports(in_kind=int(Kind.NONE))
        ready = int(rng.random() >= stall)
        reset = int(rng.random() < 0.0005)
        trace.append(replace(beat, out_ready=ready, rst=reset, **_monitor(rng, rate)))
    return trace[:cycles]
