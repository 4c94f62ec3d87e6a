"""Drives the RTL under cocotb: inputs change at the falling edge, outputs are read just before the rising one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from privlib.ginseng.tec import REGIONS, Ports, message_beats
from tests.ginseng.rtl.jobs import KEY_SETUP_CYCLES, Job, Result, bind_ports, job_beats

_NAMES = [field.name for field in fields(Ports)]


class Driver:
    """One simulated core; `out_ready` may be replaced by any policy of back-pressure."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.out_ready: Callable[[], int] = lambda: 1
        self.accepted = False
        self.key_ready = False
        self.cycles = 0
        self.results: list[Result] = []
        self.held: tuple[int, ...] | None = None
        self._handles = {name: getattr(dut, name) for name in _NAMES}
        self._now: dict[str, int] = {}
        self._data = b""
        self.open_data = b""

    async def start(self) -> None:
        """Clock, reset, and the wipe that follows it."""
        self.dut.clk.value = 0
        Clock(self.dut.clk, 10, unit="ns").start()
        await FallingEdge(self.dut.clk)
        await self.reset()

    async def reset(self) -> None:
        """A reset of one cycle and the wipe after it; whatever was under way is forgotten."""
        await self.cycle(Ports(rst=1))
        self._data, self.held = b"", None
        for _ in range(REGIONS):
            await self.cycle(Ports())

    async def cycle(self, ports: Ports) -> None:
        """One clock cycle; `accepted` then tells whether the offered beat was taken."""
        ports = replace(ports, out_ready=self.out_ready())
        for name in _NAMES:
            value = getattr(ports, name)
            if self._now.get(name) != value:
                self._handles[name].value = value
                self._now[name] = value
        await ReadOnly()
        dut = self.dut
        self.accepted = bool(ports.in_valid) and bool(dut.in_ready.value)
        self.key_ready = bool(dut.key_ready.value)
        if dut.out_valid.value:
            self._observe(bool(ports.out_ready))
        self.cycles += 1
        await FallingEdge(dut.clk)

    def _observe(self, taken: bool) -> None:
        dut = self.dut
        last, ok, size = int(dut.out_last.value), int(dut.out_ok.value), int(dut.out_bytes.value)
        block = dut.out_data.value.to_unsigned().to_bytes(16, "big")
        beat = (last, ok, size, int.from_bytes(block, "big"))
        assert self.held in (None, beat), "a stalled beat must not change"
        self.held = None if taken else beat
        if not taken:
            return
        if last:
            self.results.append(Result(self._data, bool(ok), block))
            self._data = b""
        else:
            self._data += block[: size or 16]

    async def send(self, beats: Sequence[Ports], gap: Callable[[], bool] = lambda: False) -> None:
        """Offers each beat until it is taken, with idle cycles where `gap` says so."""
        for beat in beats:
            while gap():
                await self.cycle(Ports())
            await self.cycle(beat)
            while not self.accepted:
                await self.cycle(beat)

    async def drain(self) -> None:
        """Lets everything under way leave, without back-pressure."""
        self.out_ready = lambda: 1
        for _ in range(20):
            await self.cycle(Ports())

    async def load(self, slot: int, key: bytes) -> None:
        """Loads a key and waits until it is live; the core must be idle."""
        await self.cycle(Ports(key_valid=1, key_slot=slot, key=int.from_bytes(key, "big")))
        for _ in range(KEY_SETUP_CYCLES):
            await self.cycle(Ports())

    async def bind(self, region: int, nonce: bytes, slot: int, readable: int = 0) -> None:
        """Binds a region to a nonce's tensor and version; bursts below `readable` may be read, others written."""
        await self.cycle(bind_ports(region, nonce, slot, readable))

    async def burst(
        self, *, encrypt: bool, region: int, burst: int, aad: bytes, data: bytes, tag: bytes = bytes(16)
    ) -> Result:
        """One whole message, alone."""
        before = len(self.results)
        await self.send(message_beats(encrypt=encrypt, region=region, burst=burst, aad=[aad], data=[data], tag=tag))
        await self.drain()
        assert len(self.results) == before + 1
        return self.results[-1]

    async def run_jobs(self, jobs: Sequence[Job]) -> list[Result]:
        """Every job in order, each key loaded while the jobs before it stream."""
        first = len(self.results)
        loads = iter(enumerate(jobs))
        loaded, loading = -1, False  # number of the last live key; whether the next is on its way
        for index, job in enumerate(jobs):
            region, slot = index % 32, index % 16
            burst = int.from_bytes(job.nonce[8:], "big")
            queue = [bind_ports(region, job.nonce, slot, 0 if job.encrypt else burst + 1), *job_beats(job, region)]
            queue.reverse()
            while queue:
                # A slot may be reloaded once its job has left: eight jobs ahead of sixteen slots.
                following = next(loads, None) if not loading and loaded - index < 7 else None
                ports = queue[-1] if loaded >= index else Ports()
                if following is not None:
                    number, other = following
                    ports = replace(ports, key_valid=1, key_slot=number % 16, key=int.from_bytes(other.key, "big"))
                offered = queue[-1] if loaded >= index else None
                await self.cycle(ports)
                if offered is not None and (self.accepted or offered.bind_valid):
                    queue.pop()
                if following is not None:
                    assert self.key_ready, "an idle key port must take a key at once"
                    loading = True
                elif loading and self.key_ready:
                    loaded, loading = loaded + 1, False
        await self.drain()
        return self.results[first:]
