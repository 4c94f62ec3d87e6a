"""Protection modes in bytes and cycles: the bars, counts by hand, and requests that are refused."""

import time

import pytest

from privlib.ginseng import CycleReport, lower, simulate, studies
from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory import blocks
from privlib.ginseng.memory.cache import LineCache
from privlib.ginseng.memory.traffic import MODES, CounterTree, Tagged, Transfer, traffic_model
from privlib.ginseng.vta.program import VtaProgram

NETWORKS = ("resnet18", "resnet32", "vgg9", "mobilenet")


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, CycleReport]]:
    return {name: studies.modes(lower(name)) for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_full_tec_costs_at_most_one_percent_of_cycles_and_half_a_percent_of_traffic(
    reports: dict[str, dict[str, CycleReport]], name: str
) -> None:
    cycles, traffic = reports[name]["tec"].overhead(reports[name]["none"])
    assert 0 <= cycles <= 0.01
    assert 0 < traffic <= 0.005


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mee_like_tree_is_in_its_known_range(reports: dict[str, dict[str, CycleReport]], name: str) -> None:
    cycles, traffic = reports[name]["mee"].overhead(reports[name]["none"])
    assert 0.20 <= traffic <= 0.30
    assert 0 < cycles <= 0.30


def test_the_mee_like_tree_costs_its_traffic_in_time_where_memory_is_the_limit(
    reports: dict[str, dict[str, CycleReport]],
) -> None:
    assert 0.20 <= reports["mobilenet"]["mee"].overhead(reports["mobilenet"]["none"])[0] <= 0.30


@pytest.mark.parametrize("name", NETWORKS)
def test_modes_come_in_their_order(reports: dict[str, dict[str, CycleReport]], name: str) -> None:
    moved = [reports[name][mode].bytes_moved for mode in ("none", "ctr", "tec", "mgx", "mee")]
    assert moved == sorted(moved) and moved[0] == moved[1]
    asked = reports[name]["none"].moved
    for mode in MODES:
        assert {kind: reports[name][mode].moved[kind] for kind in asked} == asked


def test_resnet18_in_all_modes_takes_under_a_minute() -> None:
    program = lower("resnet18")
    start = time.process_time()
    for mode in MODES:
        simulate(program, mode)
    assert time.process_time() - start < 60


def test_either_check_keeps_within_the_bar_and_the_stall_is_counted() -> None:
    program = lower("resnet32")
    base, before_use, before_store = (
        simulate(program),
        simulate(program, "tec"),
        simulate(program, "tec", check="before_store"),
    )
    assert before_store.overhead(base)[0] <= 0.01
    assert all(layer.store_wait_cycles == 0 for layer in before_use.layers)
    assert before_store.bytes_moved == before_use.bytes_moved


def test_metadata_moves_in_whole_dram_bursts(reports: dict[str, dict[str, CycleReport]]) -> None:
    for by_mode in reports.values():
        for report in by_mode.values():
            for layer in report.layers:
                assert all(layer.moved.get(kind, 0) % 64 == 0 for kind in ("tags", "macs", "counters", "tree"))


def test_a_streaming_read_under_the_tree_brings_one_mac_and_one_counter_line_each_512_bytes() -> None:
    program = lower("vgg9")
    tree = CounterTree(program, cache_lines=512)
    weights = program.regions["dense1:weights"]
    transfers = tree.access(weights.base, weights.base + 8 * 4096, write=False)
    labels = [transfer.label for transfer in transfers]
    assert labels.count("macs") == labels.count("counters") == 64
    assert labels.count("tree") >= 64 // 8
    assert transfers[-1] == Transfer(weights.base, weights.base + 8 * 4096, False, "data", 0)
    again = tree.access(weights.base, weights.base + 4096, write=False)
    assert [transfer.label for transfer in again] == ["data"]


def test_a_line_written_in_part_under_the_tree_is_read_first() -> None:
    program = lower("vgg9")
    tree = CounterTree(program, cache_lines=512)
    base = program.regions["dense1"].base
    data = [t for t in tree.access(base + 16, base + 80, write=True) if t.label == "data"]
    assert [(t.start - base, t.end - base, t.write) for t in data] == [
        (0, 64, False),
        (64, 128, False),
        (0, 128, True),
    ]


def _tagged(program: VtaProgram, lines: int, *, size: int = 512, partial: bool = True) -> Tagged:
    fixed = {name: blocks.uniform(region.size, size) for name, region in program.regions.items()}
    return Tagged(program, fixed, partial_writes=partial, buffer_lines=lines)


def test_four_tags_share_a_line_and_a_block_is_read_whole() -> None:
    program = lower("vgg9")
    base = program.regions["dense1:weights"].base
    model = _tagged(program, lines=64)
    found = model.access(base + 100, base + 2048, write=False)
    assert sum(t.end - t.start for t in found if t.label == "tags") in (64, 128)
    assert found[-1] == Transfer(base, base + 2048, False, "data", 100)
    assert [t.label for t in model.access(base, base + 512, write=False)] == ["data"]
    without = _tagged(program, lines=0)
    for _ in range(2):
        assert [t.label for t in without.access(base, base + 512, write=False)] == ["tags", "data"]


def test_a_block_written_in_part_is_read_first_or_refused() -> None:
    program = lower("vgg9")
    base = program.regions["dense1"].base
    labels = [(t.label, t.write) for t in _tagged(program, lines=64).access(base, base + 16, write=True)]
    assert ("data", False) in labels and labels[-1] == ("data", True)
    with pytest.raises(ProtectionError, match="written whole"):
        _tagged(program, lines=64, partial=False).access(base, base + 16, write=True)


def test_tags_of_dead_tensors_are_never_written_back() -> None:
    program = lower("resnet32")
    model = traffic_model("tec", program)
    region = program.regions["1.1/a"]
    model.access(region.base, region.end, write=True)
    model.release(["1.1/a"])
    written = [
        t
        for name in ("1.1/b", "1.2/a", "1.2/b", "1.3/a")
        for t in model.access(program.regions[name].base, program.regions[name].end, write=True)
    ]
    assert all(t.label == "data" for t in written)


def test_the_cache_forgets_the_least_recent_and_writes_back_only_what_changed() -> None:
    cache = LineCache(2)
    assert cache.touch(1, 1, write=False)
    assert not cache.touch(2, 1, write=True)
    assert not cache.touch(1, 1, write=False)
    assert cache.touch(3, 1, write=False)
    assert cache.drain() == [2] and cache.drain() == []
    assert cache.touch(2, 1, write=False)
    assert cache.drain() == []
    assert cache.touch(1, 1, write=False)


def test_a_written_sector_does_not_stand_for_the_whole_line() -> None:
    cache = LineCache(2)
    cache.touch(1, 0b0001, write=True)
    assert not cache.touch(1, 0b0001, write=False)
    assert cache.touch(1, 0b0010, write=False)
    assert cache.flush() == [1] and cache.flush() == []


def test_unknown_modes_and_checks_are_refused(tiny: VtaProgram) -> None:
    with pytest.raises(ProtectionError, match="mgx"):
        simulate(tiny, "sgx")
    with pytest.raises(ProtectionError, match="mgx"):
        traffic_model("sgx", tiny)
    with pytest.raises(ProtectionError, match="before_use"):
        simulate(tiny, "tec", check="never")
