"""Cycles of a lowered network: four engines, four token queues, one memory port, events for instructions and bursts.

The event with the earliest time goes next. An engine's next event is its next burst, or the start of its next
instruction once that is fetched and its tokens are there; tokens carry the time they were pushed. Nothing here needs
data.

Protection enters in three places. A mode's traffic model adds transfers. The cipher may be slower than the bus. And
what was read is decrypted `data_cycles` and verified `verify_cycles` after its last beat: under "before_use" the
consumer waits for the verdict; under "before_store" it works on unverified data, and a STORE waits until all that went
into it, instructions included, has been verified: each token also carries the time by which that is so.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from privlib.ginseng.errors import ExecutionError
from privlib.ginseng.memory.dram import MemoryTiming, Port, bursts
from privlib.ginseng.memory.traffic import TrafficModel, Transfer
from privlib.ginseng.report import LayerReport, Span, describe
from privlib.ginseng.vta.config import INSTRUCTION_BYTES, EngineTiming, VtaConfig
from privlib.ginseng.vta.isa import Alu, Edge, Engine, Gemm, Instruction, Memory, MemoryInstruction, Store
from privlib.ginseng.vta.program import Kind, LayerProgram, Region, dram_ranges

NEVER = 1 << 60
_KIND_OF = {Memory.UOP: Kind.UOPS, Memory.WGT: Kind.WEIGHTS, Memory.ACC: Kind.BIAS}


@dataclass(frozen=True)
class Checking:
    """The cost of a mode in time: cycles from last beat to decrypted (encrypted) and to verified (tagged), and bytes
    the cipher takes a cycle."""

    data_cycles: int = 0
    verify_cycles: int = 0
    cipher_bytes_per_cycle: float = float("inf")
    before_store: bool = False


@dataclass
class _Burst:
    beats: int
    cycles: int
    write: bool


@dataclass
class _Actor:
    """An engine's place in its queue and in the DMA it is doing."""

    queue: deque[int] = field(default_factory=deque)
    free: int = 0
    pending: deque[_Burst] = field(default_factory=deque)
    request: int = 0
    in_flight: deque[int] = field(default_factory=deque)
    current: int = -1
    started: int = 0
    last_data: int = 0
    earliest_end: int = 0
    verified: int = 0


class LayerSimulation:
    """One launch, from the first fetch to FINISH; `run` returns its report."""

    def __init__(
        self,
        layer: LayerProgram,
        stream: Region,
        config: VtaConfig,
        engines: EngineTiming,
        memory: MemoryTiming,
        traffic: TrafficModel,
        checking: Checking,
        *,
        trace: bool = False,
    ) -> None:
        self.layer, self.config, self.engines, self.memory = layer, config, engines, memory
        self.traffic, self.checking, self.trace = traffic, checking, trace
        self.port = Port(memory)
        self.actors = {engine: _Actor() for engine in Engine}
        self.fetch = _Actor()
        self.pops = [instruction.pops for instruction in layer.instructions]
        self.stream, self.fetched = stream, 0
        self.available: list[tuple[int, int]] = []
        self.tokens: dict[Edge, deque[tuple[int, int]]] = {}
        self.moved: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.spans: list[Span] = []
        self.store_wait = 0
        self.end = 0

    def run(self, closing: Callable[[], Iterable[Transfer]] = tuple) -> LayerReport:
        """Simulate to the end; `closing` then gives what metadata must still be written. ExecutionError when engines
        wait for each other for ever."""
        instructions = self.layer.instructions
        while True:
            # Ties go to fetch, then compute, load, store.
            time, next_engine = self._fetch_time(), None
            for engine in (Engine.COMPUTE, Engine.LOAD, Engine.STORE):
                when = self._time(engine)
                if when < time:
                    time, next_engine = when, engine
            if time >= NEVER:
                break
            if next_engine is None:
                self._advance_fetch(time)
            else:
                self._advance(next_engine, time)
        left = sum(len(actor.queue) for actor in self.actors.values())
        if left or self.fetched < len(instructions):
            raise ExecutionError(
                f"layer {self.layer.name!r}: {left} instructions wait for each other for ever; the "
                "dependence bits are wrong"
            )
        done = self.end
        for transfer in closing():
            self._count(transfer, "tags")
            for burst in self._bursts(transfer):
                self.end = max(self.end, self.port.serve(done, burst.cycles, burst.write)[1])
        return LayerReport(
            self.layer.name,
            self.end,
            self.layer.layer.macs,
            self.busy["gemm"],
            self.busy["alu"],
            self.port.busy_cycles,
            self.store_wait,
            dict(self.moved),
            tuple(self.spans),
        )

    def _fetch_time(self) -> int:
        if self.fetch.pending:
            return self.fetch.request
        if self.fetched >= len(self.layer.instructions):
            return NEVER
        # The next burst is read once the last was handed out, which needs room in the engines' queues.
        waiting = max(len(actor.queue) for actor in self.actors.values())
        return NEVER if waiting > self.engines.queue_entries - self.engines.fetch_instructions else self.fetch.free

    def _advance_fetch(self, time: int) -> None:
        count = min(self.engines.fetch_instructions, len(self.layer.instructions) - self.fetched)
        if not self.fetch.pending:
            start = self.stream.base + self.fetched * INSTRUCTION_BYTES
            self._prepare(self.fetch, [(start, start + count * INSTRUCTION_BYTES)], False, Kind.INSTRUCTIONS, time)
            return
        if not self._burst(self.fetch):
            return
        ready = self._usable(self.fetch.last_data)
        verified = self.fetch.last_data + self.checking.verify_cycles
        for number in range(self.fetched, self.fetched + count):
            ready += 1
            self.available.append((ready, verified))
            self.actors[self.layer.instructions[number].engine].queue.append(number)
        self.fetched += count
        self.fetch.free = ready

    def _time(self, engine: Engine) -> int:
        actor = self.actors[engine]
        if actor.pending:
            return actor.request
        if not actor.queue:
            return NEVER
        number = actor.queue[0]
        time = max(actor.free, self.available[number][0])
        for edge in self.pops[number]:
            queue = self.tokens.get(edge)
            if not queue:
                return NEVER
            time = max(time, queue[0][0])
        return time

    def _advance(self, engine: Engine, time: int) -> None:
        actor = self.actors[engine]
        if actor.pending:
            if self._burst(actor):
                self._finish_dma(engine)
            return
        actor.current = actor.queue.popleft()
        instruction = self.layer.instructions[actor.current]
        actor.verified = max(actor.verified, self.available[actor.current][1])
        for edge in self.pops[actor.current]:
            actor.verified = max(actor.verified, self.tokens[edge].popleft()[1])
        actor.started = time
        if isinstance(instruction, MemoryInstruction):
            self._start_dma(engine, instruction, time)
        else:
            done = time + self._duration(instruction)
            self._retire(engine, done, done)

    def _duration(self, instruction: Instruction) -> int:
        timing = self.engines
        if isinstance(instruction, Gemm):
            cycles = instruction.passes * timing.gemm_cycles_per_pass
            self.busy["gemm"] += cycles
            return cycles + timing.gemm_overhead
        if isinstance(instruction, Alu):
            cycles = instruction.operations * (
                timing.alu_immediate_cycles if instruction.use_immediate else timing.alu_tensor_cycles
            )
            self.busy["alu"] += cycles
            return cycles + timing.alu_overhead
        return timing.issue_cycles + timing.finish_cycles

    def _start_dma(self, engine: Engine, instruction: MemoryInstruction, time: int) -> None:
        actor = self.actors[engine]
        begin = time + self.engines.issue_cycles
        write = isinstance(instruction, Store)
        if write and self.checking.before_store and actor.verified > begin:
            self.store_wait += actor.verified - begin
            begin = actor.verified
        kind = _KIND_OF.get(instruction.memory, Kind.ACTIVATIONS)
        spans = dram_ranges(instruction, self.config, join=self.memory.join_rows)
        self._prepare(actor, spans, write, kind, begin)
        width = instruction.x_size + instruction.x_pad_0 + instruction.x_pad_1
        padded = width * (instruction.y_size + instruction.y_pad_0 + instruction.y_pad_1)
        padding = (padded - instruction.x_size * instruction.y_size) * self.engines.pad_element_cycles
        elements = instruction.x_size * instruction.y_size
        # Zeros are written between rows, so they delay this DMA but not the port.
        actor.earliest_end = begin + (elements * self.memory.store_element_cycles if write else padding)
        actor.request += padding if self.memory.serial else 0
        if not actor.pending:
            actor.last_data = begin
            self._finish_dma(engine)

    def _prepare(self, actor: _Actor, spans: Iterable[tuple[int, int]], write: bool, kind: Kind, time: int) -> None:
        for start, end in spans:
            for transfer in self.traffic.access(start, end, write):
                self._count(transfer, kind.value)
                actor.pending.extend(self._bursts(transfer))
        actor.request = time
        actor.in_flight.clear()
        actor.last_data = time

    def _count(self, transfer: Transfer, kind: str) -> None:
        size = transfer.end - transfer.start
        if transfer.label != "data":
            self.moved[transfer.label] += size
        else:
            self.moved[kind] += size - transfer.extra
            if transfer.extra:
                self.moved["overfetch"] += transfer.extra

    def _bursts(self, transfer: Transfer) -> list[_Burst]:
        found = []
        rate = self.checking.cipher_bytes_per_cycle if transfer.label == "data" else float("inf")
        for beats in bursts(transfer.start, transfer.end, self.memory):
            found.append(_Burst(beats, max(beats, int(beats * self.memory.bus_bytes / rate)), transfer.write))
        return found

    def _burst(self, actor: _Actor) -> bool:
        """Put the actor's next burst on the port; True when it was the DMA's last."""
        burst = actor.pending.popleft()
        start, end = self.port.serve(actor.request, burst.cycles, burst.write)
        actor.last_data = max(actor.last_data, end)
        actor.in_flight.append(end)
        actor.request = start + 1
        if len(actor.in_flight) >= self.memory.outstanding:
            actor.request = max(actor.request, actor.in_flight.popleft())
        return not actor.pending

    def _usable(self, data_end: int) -> int:
        """When what arrived at `data_end` may be used."""
        checking = self.checking
        return data_end + (checking.data_cycles if checking.before_store else checking.verify_cycles)

    def _finish_dma(self, engine: Engine) -> None:
        actor = self.actors[engine]
        data_end = max(actor.last_data, actor.earliest_end)
        if engine is Engine.STORE:
            # The last block's tag is ready while its data still travels to DRAM and is acknowledged.
            tagged = data_end - self.memory.write_latency + self.checking.verify_cycles
            self._retire(engine, max(data_end + self.checking.data_cycles, tagged), data_end)
        else:
            usable = self._usable(data_end)
            actor.verified = max(actor.verified, data_end + self.checking.verify_cycles)
            # The load engine goes on while its tile is checked; the compute engine needs what it loads at once.
            self._retire(engine, usable, usable if engine is Engine.COMPUTE else data_end)

    def _retire(self, engine: Engine, done: int, free: int) -> None:
        actor = self.actors[engine]
        instruction = self.layer.instructions[actor.current]
        actor.free = free
        for edge in instruction.pushes:
            self.tokens.setdefault(edge, deque()).append((done, actor.verified))
        self.end = max(self.end, done)
        if self.trace:
            self.spans.append(Span(engine, describe(instruction), actor.started, done))
