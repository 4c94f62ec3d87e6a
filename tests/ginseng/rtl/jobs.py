"""One burst under a key of its own, as both harnesses (cocotb, C++) ask for it and get it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privlib.ginseng.rtl_flow import simulate
from privlib.ginseng.tec import REGIONS, Ports, message_beats

KEY_SETUP_CYCLES = 24
LATENCY = 20


@dataclass(frozen=True)
class Result:
    """One message as it left the core: its bytes, the verdict, and the tag (16 zero bytes when reading)."""

    data: bytes
    ok: bool
    tag: bytes


@dataclass(frozen=True)
class Job:
    """One burst under a key of its own."""

    key: bytes
    nonce: bytes  # tensor, version and burst, 12 bytes
    encrypt: bool
    aad: Sequence[bytes]
    data: Sequence[bytes]
    tag: bytes = bytes(16)


def bind_ports(region: int, nonce: bytes, slot: int, readable: int = 0) -> Ports:
    """The region port's signals for a binding."""
    tensor, version = int.from_bytes(nonce[:4], "big"), int.from_bytes(nonce[4:8], "big")
    return Ports(
        bind_valid=1,
        bind_enable=1,
        bind_region=region,
        bind_tensor=tensor,
        bind_version=version,
        bind_next=readable,
        bind_slot=slot,
    )


def job_beats(job: Job, region: int) -> list[Ports]:
    """Beats of a job; a tag of other than 16 bytes is offered as that many bytes."""
    burst = int.from_bytes(job.nonce[8:], "big")
    return message_beats(encrypt=job.encrypt, region=region, burst=burst, aad=job.aad, data=job.data, tag=job.tag)


def play(jobs: Sequence[Job]) -> list[Result]:
    """Every job in order through the RTL in the C++ trace player: load the key, bind, stream, without back-pressure.

    The trace is made beforehand, so whatever it offers must be taken at once; that is asserted.
    """
    trace = [Ports(rst=1), *[Ports()] * REGIONS]
    loads: list[int] = []
    offered: list[int] = []
    for number, job in enumerate(jobs):
        region, slot = number % 32, number % 16
        loads.append(len(trace))
        trace.append(Ports(key_valid=1, key_slot=slot, key=int.from_bytes(job.key, "big")))
        trace += [Ports()] * (KEY_SETUP_CYCLES - 1)
        burst = int.from_bytes(job.nonce[8:], "big")
        trace.append(bind_ports(region, job.nonce, slot, 0 if job.encrypt else burst + 1))
        beats = job_beats(job, region)
        offered += range(len(trace), len(trace) + len(beats))
        trace += beats
    seen = simulate([*trace, *[Ports()] * LATENCY])
    assert all(seen[cycle].key_ready for cycle in loads), "an idle key port must take a key at once"
    assert all(seen[cycle].in_ready for cycle in offered), "without back-pressure every beat must be taken at once"
    results, data = [], b""
    for outputs in seen:
        if outputs.out_valid:
            block = outputs.out_data.to_bytes(16, "big")
            if outputs.out_last:
                results.append(Result(data, bool(outputs.out_ok), block))
                data = b""
            else:
                data += block[: outputs.out_bytes or 16]
    assert len(results) == len(jobs) and not data
    return results
