"""cocotb: the core against `cryptography`, under gaps, back-pressure, resets, changed bits and broken rules."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import cocotb
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privlib.ginseng.tec import Ports, message_beats, seal_burst
from tests.ginseng.rtl.jobs import KEY_SETUP_CYCLES, Job, bind_ports
from tests.ginseng.rtl.tec_driver import Driver

KEY = bytes(range(16))
TENSOR, VERSION = 7, 3


def nonce(burst: int, version: int = VERSION) -> bytes:
    """Nonce of the bench's tensor."""
    return b"".join(part.to_bytes(4, "big") for part in (TENSOR, version, burst))


def _ready(rng: random.Random, stall: float) -> int:
    return int(rng.random() >= stall)


async def ready_core(dut: Any) -> Driver:
    """A core with a key in slot 2 and region 5 bound for writing, region 6 (same tensor and version) for reading."""
    driver = Driver(dut)
    await driver.start()
    await driver.load(2, KEY)
    await driver.bind(5, nonce(0), slot=2)
    await driver.bind(6, nonce(0), slot=2, readable=2**32)
    return driver


@cocotb.test()
async def random_differential(dut: Any) -> None:
    """Random messages under random gaps and back-pressure equal `cryptography`; a changed bit anywhere is refused."""
    rng = random.Random(1)
    driver = Driver(dut)
    await driver.start()
    jobs, expected = [], []
    for number in range(300):
        key, iv = rng.randbytes(16), rng.randbytes(12)
        aad, data = (rng.randbytes(rng.choice([0, 0, 1, 16, 31, rng.randrange(200)])) for _ in range(2))
        sealed = AESGCM(key).encrypt(iv, data, aad)
        text, tag = sealed[:-16], sealed[-16:]
        match number % 3:
            case 0:
                jobs.append(Job(key, iv, True, [aad], [data]))
                expected.append((text, True, tag))
            case 1:
                jobs.append(Job(key, iv, False, [aad], [text], tag))
                expected.append((data, True, bytes(16)))
            case _:
                parts = [bytearray(aad), bytearray(text), bytearray(tag)]
                changed = rng.choice([part for part in parts if part])
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
                jobs.append(Job(key, iv, False, [bytes(parts[0])], [bytes(parts[1])], bytes(parts[2])))
                expected.append(
                    (bytes(a ^ b ^ c for a, b, c in zip(data, text, parts[1], strict=True)), False, bytes(16))
                )
    for stall in (0.0, 0.3, 0.8):
        driver.out_ready = partial(_ready, rng, stall)
        results = await driver.run_jobs(jobs if stall == 0.0 else jobs[:60])
        assert [(r.data, r.ok, r.tag) for r in results] == expected[: len(results)]


@cocotb.test()
async def one_block_a_cycle(dut: Any) -> None:
    """Without back-pressure no beat ever waits, within messages and from one to the next, reads and writes mixed."""
    driver = await ready_core(dut)
    rng = random.Random(2)
    beats: list[Ports] = []
    expected = []
    for burst in range(40):
        data = rng.randbytes(16 * rng.randrange(1, 33))
        text, tag = seal_burst(KEY, TENSOR, VERSION, burst, data)
        write = burst % 2 == 0
        beats += message_beats(
            encrypt=write, region=5 if write else 6, burst=burst, aad=[], data=[data if write else text], tag=tag
        )
        expected.append((text, tag) if write else (data, bytes(16)))
    before = driver.cycles
    await driver.send(beats)
    assert driver.cycles - before == len(beats)
    await driver.drain()
    assert [(r.data, r.tag) for r in driver.results] == expected and all(r.ok for r in driver.results)


@cocotb.test()
async def streaming_chunks(dut: Any) -> None:
    """Chunking and empty parts change nothing; an early flip fails; shortened tags are refused."""
    driver = await ready_core(dut)
    rng = random.Random(3)
    body = rng.randbytes(100)
    chunkings = [[body], [body[:16], body[16:]], [b"", body], [body[i : i + 1] for i in range(100)]]
    aads = [[], [b""], [b"header of 19 bytes.."], [bytes([i]) for i in range(33)]]
    burst = 0
    for aad in aads:
        for data in [*chunkings, [], [b""]]:
            whole, header = b"".join(data), b"".join(aad)
            text, tag = seal_burst(KEY, TENSOR, VERSION, burst, whole, header)
            beats = message_beats(encrypt=True, region=5, burst=burst, aad=aad, data=data)
            await driver.send(beats, gap=lambda: rng.random() < 0.4)
            await driver.drain()
            assert (driver.results[-1].data, driver.results[-1].tag, driver.results[-1].ok) == (text, tag, True)
            good = await driver.burst(encrypt=False, region=6, burst=burst, aad=header, data=text, tag=tag)
            assert good.ok and good.data == whole
            if text:
                flipped = bytes([text[0] ^ 1]) + text[1:]
                assert not (
                    await driver.burst(encrypt=False, region=6, burst=burst, aad=header, data=flipped, tag=tag)
                ).ok
            for size in range(16):
                short = tag[:size]
                beats = message_beats(encrypt=False, region=6, burst=burst, aad=[header], data=[text], tag=short)
                beats[-1] = replace(beats[-1], in_bytes=size) if size else replace(beats[-1], in_data=0)
                if burst % 5 == 0:
                    await driver.send(beats)
                    await driver.drain()
                    assert not driver.results[-1].ok
            burst += 1


@cocotb.test()
async def reset_in_mid_stream(dut: Any) -> None:
    """A reset at any point forgets keys, regions and messages; nothing of them comes out later."""
    for after in range(0, 30, 3):
        driver = await ready_core(dut)
        beats = message_beats(encrypt=True, region=5, burst=0, aad=[b"a"], data=[bytes(400)])
        for beat in beats[:after]:
            await driver.cycle(beat)
        driver.results.clear()
        await driver.reset()
        await driver.drain()
        assert driver.results == [] and driver.dut.out_data.value.to_unsigned() == 0
        # Neither the rest of the message nor a new one on the old binding is served.
        await driver.send([*beats[after:], *message_beats(encrypt=True, region=5, burst=1, aad=[], data=[bytes(32)])])
        await driver.drain()
        assert driver.results and all(not r.ok and not any(r.data) and not any(r.tag) for r in driver.results)
        await driver.load(2, KEY)
        await driver.bind(5, nonce(0), slot=2)
        text, tag = seal_burst(KEY, TENSOR, VERSION, 9, b"after the reset")
        again = await driver.burst(encrypt=True, region=5, burst=9, aad=b"", data=b"after the reset")
        assert (again.data, again.tag, again.ok) == (text, tag, True)


@cocotb.test()
async def replay_and_relocation(dut: Any) -> None:
    """A burst of an older version, or at another place, is refused; so is writing a nonce twice or reading ahead."""
    driver = await ready_core(dut)
    first = await driver.burst(encrypt=True, region=5, burst=0, aad=b"", data=b"old" * 16)
    second = await driver.burst(encrypt=True, region=5, burst=1, aad=b"", data=b"new" * 16)
    assert first.ok and second.ok
    assert (await driver.burst(encrypt=False, region=5, burst=0, aad=b"", data=first.data, tag=first.tag)).ok
    moved = await driver.burst(encrypt=False, region=5, burst=1, aad=b"", data=first.data, tag=first.tag)
    assert not moved.ok
    twice = await driver.burst(encrypt=True, region=5, burst=1, aad=b"", data=b"two" * 16)
    assert not twice.ok and not any(twice.data)
    ahead = await driver.burst(encrypt=False, region=5, burst=2, aad=b"", data=bytes(48))
    assert not ahead.ok and not any(ahead.data)
    await driver.cycle(Ports(bump_valid=1, bind_region=5))
    newer = await driver.burst(encrypt=True, region=5, burst=0, aad=b"", data=b"old" * 16)
    assert newer.ok and newer.data != first.data, "equal plaintexts must differ from version to version"
    assert newer.data == seal_burst(KEY, TENSOR, VERSION + 1, 0, b"old" * 16)[0]
    assert not (await driver.burst(encrypt=False, region=5, burst=0, aad=b"", data=first.data, tag=first.tag)).ok
    await driver.cycle(bind_ports(5, nonce(0, version=2**32 - 1), slot=2))
    await driver.cycle(Ports(bump_valid=1, bind_region=5))
    assert not (await driver.burst(encrypt=True, region=5, burst=0, aad=b"", data=bytes(16))).ok, (
        "versions must not wrap"
    )


@cocotb.test()
async def clearing_a_key(dut: Any) -> None:
    """A cleared key serves nothing more, not even a message under way, also behind a stalled output."""
    for wait in range(0, 24, 2):
        driver = await ready_core(dut)
        beats = message_beats(encrypt=True, region=5, burst=0, aad=[], data=[bytes(16 * 12)])
        clear = {"key_valid": 1, "key_clear": 1, "key_slot": 2}
        driver.out_ready = lambda: 0
        for cycle in range(26):
            ports = beats[cycle] if cycle < len(beats) else Ports()
            await driver.cycle(replace(ports, **clear) if cycle == wait else ports)
        await driver.send([], gap=lambda: False)
        driver.out_ready = lambda: 1
        for _ in range(KEY_SETUP_CYCLES):
            await driver.cycle(Ports())
        # The message is refused unless its tag had left the hash before the clear.
        assert all(not r.ok for r in driver.results)
        refused = await driver.burst(encrypt=True, region=5, burst=1, aad=b"", data=bytes(16))
        assert not refused.ok and not any(refused.data)
