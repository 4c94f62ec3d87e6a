"""Authentication blocks: cuts that follow accesses, and a search that never loses to what it tried."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.ginseng import lower
from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory import blocks
from privlib.ginseng.memory.blocks import Blocks, Use
from privlib.ginseng.vta.program import VtaProgram

ROW = 56 * 16


def test_a_halo_is_cut_out_rather_than_read_twice_or_tagged_row_by_row() -> None:
    # 56 rows written in tiles of 8, read by a 3x3 convolution in tiles of 8: one row above and below each.
    uses = [Use(8 * n * ROW, 8 * (n + 1) * ROW, True) for n in range(7)]
    uses += [Use(max(0, 8 * n - 1) * ROW, min(56, 8 * n + 9) * ROW, False) for n in range(7)]
    _, chosen = blocks.cheapest(56 * ROW, uses)
    rows = [cut // ROW for cut in chosen.cuts]
    assert rows[:6] == [0, 7, 8, 9, 15, 16]
    rows_each, tile_each = blocks.uniform(56 * ROW, ROW), blocks.uniform(56 * ROW, 8 * ROW)
    cost = blocks.extra_bytes(chosen, uses)
    assert cost < blocks.extra_bytes(rows_each, uses) and cost < blocks.extra_bytes(tile_each, uses)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    size=st.integers(1, 3000),
    edges=st.lists(st.integers(1, 2999), max_size=5),
)
def test_a_partition_covers_the_tensor_keeps_writes_whole_and_is_the_cheapest_tried(
    data: st.DataObject, size: int, edges: list[int]
) -> None:
    cuts = [0, *sorted({edge for edge in edges if edge < size}), size]
    uses = [Use(low, high, True) for low, high in itertools.pairwise(cuts)]
    for _ in range(data.draw(st.integers(0, 6))):
        start = data.draw(st.integers(0, size - 1))
        uses.append(Use(start, data.draw(st.integers(start + 1, size)), False))
    cost, chosen = blocks.cheapest(size, uses)
    assert chosen.cuts[0] == 0 and chosen.cuts[-1] == size and list(chosen.cuts) == sorted(set(chosen.cuts))
    assert all(chosen.exact(use.start, use.end) for use in uses if use.write)
    assert (
        cost
        == blocks.extra_bytes(chosen, uses)
        == min(blocks.extra_bytes(found, uses) for found in blocks.candidates(size, uses))
    )
    for use in uses:
        first, last = chosen.covering(use.start, use.end)
        assert chosen.cuts[first] <= use.start and use.end <= chosen.cuts[last]


def test_burst_numbers_rise_in_the_order_of_writing(tiny: VtaProgram) -> None:
    chosen = blocks.choose(tiny)
    for name, uses in blocks.uses(tiny.layers, tiny.regions, tiny.config).items():
        numbers = [
            chosen[name].number(block)
            for use in uses
            if use.write
            for block in range(*chosen[name].covering(use.start, use.end))
        ]
        assert numbers == list(range(len(numbers)))
        assert sorted(map(chosen[name].number, range(chosen[name].count))) == list(range(chosen[name].count))


def test_the_chosen_partition_is_cheaper_than_any_equal_size() -> None:
    curve = blocks.granularity_curve(lower("resnet18"))
    assert curve.pop("chosen") < 0.2 * min(curve.values())


def test_extra_bytes_count_whole_lines_and_rereads_of_partly_written_blocks() -> None:
    equal = blocks.uniform(1024, 256)
    assert blocks.extra_bytes(equal, [Use(0, 1024, False)]) == 64
    assert blocks.extra_bytes(equal, [Use(0, 100, False)]) == 156 + 64
    assert blocks.extra_bytes(equal, [Use(0, 256, True)]) == 64
    # Read whole with its tag, then the rest written with it.
    assert blocks.extra_bytes(equal, [Use(0, 100, True)]) == 256 + 156 + 64 + 64


def test_bytes_outside_the_tensor_are_refused() -> None:
    for start, end in ((0, 101), (50, 50), (-1, 5)):
        with pytest.raises(ProtectionError, match="outside"):
            Blocks((0, 100)).covering(start, end)
