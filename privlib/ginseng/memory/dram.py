"""The memory port: how many cycles a burst takes, and how bursts of several engines share it."""

import itertools
from dataclasses import dataclass, replace

LINE_BYTES = 64
"""One DRAM burst: BL8 on a 64-bit device (JEDEC JESD79-3, DDR3). Metadata moves in whole lines of this size."""


@dataclass(frozen=True)
class MemoryTiming:
    """A memory port, in accelerator cycles.

    serial       one transaction at a time, its latency included (tsim's port); otherwise requests overlap,
                 `outstanding` of them for each engine, and only data beats occupy the port
    join_rows    rows that touch in DRAM are requested as one run
    """

    name: str
    bus_bits: int = 64
    read_latency: int = 0
    write_latency: int = 0
    serial: bool = False
    outstanding: int = 16
    max_beats: int = 256
    join_rows: bool = True
    store_element_cycles: int = 0
    source: str = ""

    @property
    def bus_bytes(self) -> int:
        return self.bus_bits // 8

    def with_bus(self, bits: int) -> "MemoryTiming":
        """The same port with another data width. Beyond 64 bits a store streams (core/TensorStoreWideVME.scala)."""
        return replace(self, bus_bits=bits, store_element_cycles=self.store_element_cycles if bits <= 64 else 0)

    def at_clock(self, megahertz: float) -> "MemoryTiming":
        """The same memory behind a port of another clock than the published 100 MHz: its latency takes more cycles."""
        factor = megahertz / 100
        return replace(
            self,
            read_latency=round(self.read_latency * factor),
            write_latency=round(self.write_latency * factor),
        )


TSIM = MemoryTiming(
    "tsim",
    read_latency=5,
    write_latency=4,
    serial=True,
    outstanding=1,
    join_rows=False,
    store_element_cycles=3,
    source="State machines of apache/tvm-vta PR 30. "
    "Read: command (core/TensorLoad.scala), sReadAddr (shell/VME.scala), "
    "sReadAddress, DPI evaluation (dpi/VTAMemDPI.scala), registered output (VTAMemDPI.v). Write: command, sWriteAddr, "
    "sWriteAddress, response. One state machine serves reads and writes, then one beat a cycle.",
)
"""The published run's memory: ideal, one beat a cycle and no DRAM behind it."""

DRAM = MemoryTiming(
    "dram",
    read_latency=40,
    write_latency=40,
    outstanding=16,
    join_rows=True,
    store_element_cycles=3,
    source="Bandwidth: 64 bits at 100 MHz is 800 MB/s, "
    "below what a DDR3 controller of this class sustains (UG585, 22.3: "
    "about 75% of peak), so the port is the limit. Latency: 400 ns, an assumption that the benchmark sweeps. "
    "Outstanding requests: RequestQueueDepth 16 (apache/tvm-vta PR 32, shell/VME.scala).",
)
"""A realistic memory behind the published port."""


class Port:
    """The shared port: bursts are served in the order they ask."""

    def __init__(self, timing: MemoryTiming) -> None:
        self.timing = timing
        self._free = 0
        self.busy_cycles = 0

    def serve(self, request: int, cycles: int, write: bool) -> tuple[int, int]:
        """(start, end) of a burst whose data needs `cycles`, asked for at `request`; a read's end is its last beat's
        arrival, a write's end its acknowledgement."""
        latency = self.timing.write_latency if write else self.timing.read_latency
        start = max(request, self._free)
        end = start + latency + cycles
        self._free = end if self.timing.serial else start + cycles
        self.busy_cycles += cycles
        return start, end


def bursts(start: int, end: int, timing: MemoryTiming) -> list[int]:
    """Beats of each burst over bytes [start, end): cut where `max_beats` beats from an aligned address end."""
    span = timing.max_beats * timing.bus_bytes
    cuts = [start, *range((start // span + 1) * span, end, span), end]
    return [-(-high // timing.bus_bytes) - low // timing.bus_bytes for low, high in itertools.pairwise(cuts)]
