"""The cycle model: against the published totals, against cycles counted by hand from the RTL, and its own
invariants."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from privlib.ginseng import lower, simulate
from privlib.ginseng.errors import ExecutionError
from privlib.ginseng.memory.dram import DRAM, TSIM, MemoryTiming, Port, bursts
from privlib.ginseng.memory.traffic import Unchanged
from privlib.ginseng.report import LayerReport
from privlib.ginseng.tec import TecTiming
from privlib.ginseng.vta.config import PIPELINED, PUBLISHED, UNPIPELINED, EngineTiming
from privlib.ginseng.vta.isa import Alu, Engine, Finish, Gemm, Instruction, Load, Memory, MemoryInstruction, Store
from privlib.ginseng.vta.network import Conv
from privlib.ginseng.vta.program import Kind, LayerProgram, Region, VtaProgram, dram_ranges
from privlib.ginseng.vta.schedule import Schedule
from privlib.ginseng.vta.timing import Checking, LayerSimulation

INSTANT = MemoryTiming("instant", serial=False)
SLOW = TecTiming(500, 1.0, 0, 900, "made up for the test")


def _time(
    *instructions: Instruction,
    memory: MemoryTiming = INSTANT,
    engines: EngineTiming = PIPELINED,
    checking: Checking | None = None,
) -> LayerReport:
    """The report of a hand-made stream that ends in FINISH."""
    layer = Conv("y", "input", 16, 1, 1)
    uops = np.zeros((1, 3), np.int64)
    program = LayerProgram(layer, (*instructions, Finish()), uops, (), False, Schedule(1, 1, 1, 1))
    stream = Region("y:instructions", Kind.INSTRUCTIONS, 1 << 20, 16 * (len(instructions) + 1), 0)
    return LayerSimulation(
        program, stream, PUBLISHED, engines, memory, Unchanged(), checking or Checking(), trace=True
    ).run()


def _length(report: LayerReport, what: str) -> int:
    return next(span.end - span.start for span in report.spans if span.what == what)


@pytest.mark.parametrize(("engines", "published"), [(PIPELINED, 7_729_601), (UNPIPELINED, 27_679_515)])
def test_published_resnet18_totals_are_met_with_the_published_tiles(engines: EngineTiming, published: int) -> None:
    report = simulate(lower("resnet18", tiling="published"), memory=TSIM, engines=engines)
    assert abs(report.cycles / published - 1) < 0.10


def test_our_tiling_beats_the_published_one_at_the_same_memory() -> None:
    ours, theirs = (simulate(lower("resnet18", tiling=tiling), memory=TSIM) for tiling in ("search", "published"))
    assert ours.cycles < theirs.cycles
    assert ours.bytes_moved < theirs.bytes_moved


def test_instruction_lengths_are_those_of_the_state_machines() -> None:
    gemm = Gemm(uop_end=1, iter_out=10, iter_in=10)
    assert _length(_time(gemm), "GEMM") == 100 + 7
    assert _length(_time(gemm, engines=UNPIPELINED), "GEMM") == 400 + 5
    assert _length(_time(Alu(uop_end=2, iter_in=10, use_immediate=True)), "ALU ADD") == 20 + 7
    assert _length(_time(Alu(uop_end=2, iter_in=10)), "ALU ADD") == 40 + 7


def test_a_tsim_load_pays_five_cycles_for_each_row_and_one_for_each_beat() -> None:
    load = Load(memory=Memory.INP, x_size=8, y_size=3, x_stride=20)
    assert _length(_time(load, memory=TSIM), "LOAD INP") == 1 + 3 * (5 + 16)
    padded = replace(load, x_pad_0=1, x_pad_1=1)
    assert _length(_time(padded, memory=TSIM), "LOAD INP") == 1 + 3 * (5 + 16) + 3 * 2 * 2


def test_a_tsim_store_needs_three_cycles_an_element() -> None:
    assert _length(_time(Store(memory=Memory.OUT, x_size=100, x_stride=100), memory=TSIM), "STORE OUT") == 1 + 300


def test_overlapping_requests_hide_latency_and_serial_ones_do_not() -> None:
    load = Load(memory=Memory.WGT, x_size=64, x_stride=64)
    beats, cuts = 64 * 256 // 8, 64 * 256 // 2048
    overlapped = _time(load, memory=MemoryTiming("m", read_latency=30))
    serial = _time(load, memory=MemoryTiming("m", read_latency=30, serial=True, outstanding=1))
    assert _length(overlapped, "LOAD WGT") == 1 + beats + 30
    assert _length(serial, "LOAD WGT") == 1 + beats + 30 * cuts


def test_bursts_end_where_an_aligned_run_of_beats_ends() -> None:
    assert bursts(0, 4096, DRAM) == [256, 256]
    assert bursts(2000, 4100, DRAM) == [6, 256, 1]
    assert sum(bursts(8, 2056, DRAM)) == 256
    assert bursts(0, 64, DRAM.with_bus(512)) == [1]


def test_the_port_serves_in_order_of_request_and_never_two_at_once() -> None:
    port = Port(MemoryTiming("m", read_latency=10))
    assert port.serve(0, 5, False) == (0, 15)
    assert port.serve(2, 5, False) == (5, 20)
    assert port.serve(100, 5, False) == (100, 115)
    assert port.busy_cycles == 15


def test_engines_that_wait_for_each_other_for_ever_are_reported() -> None:
    with pytest.raises(ExecutionError, match="dependence bits"):
        _time(Gemm(uop_end=1, pop_prev=True))


def test_a_consumer_waits_for_the_verdict_and_the_load_engine_does_not() -> None:
    stream = (
        Load(memory=Memory.INP, x_size=16, x_stride=16, push_next=True),
        Load(memory=Memory.INP, sram_base=16, x_size=16, x_stride=16),
        Gemm(pop_prev=True, uop_end=1),
    )
    free, checked = _time(*stream), _time(*stream, checking=Checking(verify_cycles=1000))
    starts = [[span.start for span in report.spans if span.what == "LOAD INP"] for report in (free, checked)]
    assert starts[0][1] - starts[0][0] == starts[1][1] - starts[1][0]
    # Once for the fetched instructions, once for the tile.
    gemm = [next(span.start for span in report.spans if span.what == "GEMM") for report in (free, checked)]
    assert gemm[1] - gemm[0] == 2000


def test_under_before_store_only_the_store_waits() -> None:
    stream = (
        Load(memory=Memory.INP, x_size=16, x_stride=16, push_next=True),
        Gemm(pop_prev=True, push_next=True, uop_end=1),
        Store(memory=Memory.OUT, pop_prev=True),
    )
    free, deferred = _time(*stream), _time(*stream, checking=Checking(verify_cycles=1000, before_store=True))
    for what in ("LOAD INP", "GEMM"):
        assert [s.start for s in free.spans if s.what == what] == [s.start for s in deferred.spans if s.what == what]
    load_end = next(span.end for span in free.spans if span.what == "LOAD INP")
    assert deferred.store_wait_cycles > 900
    # 16 elements of output leave no sooner than the tile's verdict.
    assert next(span.end for span in deferred.spans if span.what == "STORE OUT") >= load_end + 1000


def test_without_protection_exactly_the_programs_bytes_move(tiny: VtaProgram) -> None:
    asked = sum(
        end - start
        for layer in tiny.layers
        for i in layer.instructions
        if isinstance(i, MemoryInstruction)
        for start, end in dram_ranges(i, PUBLISHED)
    )
    asked += sum(16 * len(layer.instructions) for layer in tiny.layers)
    assert simulate(tiny).bytes_moved == asked


@pytest.mark.parametrize("memory", [TSIM, DRAM, DRAM.with_bus(512)])
def test_no_unit_works_longer_than_the_layer_takes(tiny: VtaProgram, memory: MemoryTiming) -> None:
    for layer in simulate(tiny, memory=memory, trace=True).layers:
        assert layer.gemm_cycles + layer.alu_cycles <= layer.cycles
        assert layer.bus_cycles <= layer.cycles
        for engine in (Engine.COMPUTE, Engine.STORE):
            spans = [span for span in layer.spans if span.engine is engine]
            assert all(first.start <= second.start for first, second in itertools.pairwise(spans))
        assert max(span.end for span in layer.spans) <= layer.cycles


def test_compute_instructions_never_overlap(tiny: VtaProgram) -> None:
    for layer in simulate(tiny, trace=True).layers:
        spans = [span for span in layer.spans if span.engine is Engine.COMPUTE]
        assert all(first.end <= second.start for first, second in itertools.pairwise(spans))


def test_slower_memory_costs_cycles_and_a_wider_bus_saves_them() -> None:
    program = lower("vgg9")
    cycles = [simulate(program, memory=replace(DRAM, read_latency=latency)).cycles for latency in (0, 40, 400)]
    assert cycles == sorted(cycles) and cycles[0] < cycles[-1]
    widths = [simulate(program, memory=DRAM.with_bus(bits)).cycles for bits in (64, 128, 256, 512)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0]


def test_a_slow_cipher_costs_most_where_memory_is_the_limit() -> None:
    program = lower("mobilenet")
    quick, slow = (
        simulate(program, "tec", tec=replace(SLOW, latency_cycles=1, tag_latency_cycles=1, blocks_per_cycle=rate))
        for rate in (1.0, 0.25)
    )
    assert slow.cycles > 1.5 * quick.cycles
    assert slow.bytes_moved == quick.bytes_moved


def test_simulation_is_deterministic(tiny: VtaProgram) -> None:
    assert simulate(tiny, "tec", tec=SLOW) == simulate(tiny, "tec", tec=SLOW)
