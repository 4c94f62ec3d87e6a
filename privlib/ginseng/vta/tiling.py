"""Schedules: the published ones, and a search for better ones.

The search lists tile shapes that fit, ranks them by an estimate (a pipeline of loading and computing) and lowers and
simulates the best few. Of those within `SLACK` of the fastest it takes the one that moves the fewest bytes, those of
its tags and halos included, so that tiles and authentication blocks are chosen together.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from privlib.ginseng.errors import LoweringError
from privlib.ginseng.memory.blocks import cheapest, uses
from privlib.ginseng.memory.dram import DRAM
from privlib.ginseng.memory.traffic import Unchanged
from privlib.ginseng.vta.config import PIPELINED, VtaConfig
from privlib.ginseng.vta.lowering import lower_alone
from privlib.ginseng.vta.network import Conv, MaxPool, Window
from privlib.ginseng.vta.schedule import Plan, Schedule, patch, plan
from privlib.ginseng.vta.timing import Checking, LayerSimulation

_RECORD: dict[tuple[int, int, int, int, int], tuple[int, int, int, str]] = {
    (64, 56, 64, 3, 1): (8, 56, 2, "out"),
    (64, 56, 128, 3, 2): (7, 28, 4, "out"),
    (64, 56, 128, 1, 2): (7, 28, 4, "rows"),
    (128, 28, 128, 3, 1): (14, 28, 2, "rows"),
    (128, 28, 256, 3, 2): (14, 14, 4, "out"),
    (128, 28, 256, 1, 2): (7, 14, 8, "out"),
    (256, 14, 256, 3, 1): (14, 14, 4, "out"),
    (256, 14, 512, 3, 2): (7, 7, 16, "out"),
    (256, 14, 512, 1, 2): (7, 7, 16, "out"),
    (512, 7, 512, 3, 1): (7, 7, 16, "out"),
}
"""(input channels, size, filters, kernel, stride): (tile_h, tile_w, tile_co, axis of the two threads); tile_ci is 1 in
all. From tlc-pack/tophub, tophub/vta_v0.10.log, section "Resnet-18", the record that deploy_classification.py loads."""

RANKED = 300
"""Candidates that are ranked by the estimate, after a first sieve."""

KEPT = 12
"""Candidates that are simulated."""

SLACK = 0.003
"""Cycles, as a fraction, that a schedule which moves fewer bytes may cost."""

MOST_STEPS = 600
"""Schedules with more tiles and reduction steps than this are not considered."""


def published_schedule(layer: Window, config: VtaConfig) -> Schedule:
    """TopHub's tiles as TVM lowers them: two virtual threads, each with its own copy of what it loads, ReLU and clip
    apart, the residual added by the ALU. LoweringError when the record lacks the shape."""
    key = (layer.channels, layer.height, layer.out_channels, layer.kernel, layer.stride)
    if key not in _RECORD or not isinstance(layer, Conv) or layer.depthwise:
        raise LoweringError(f'the published record has no tile for layer {layer.name!r} {key}; use tiling="search"')
    rows, columns, outs, threads = _RECORD[key]
    return Schedule(rows, columns, 1, outs, interleave=threads, reuse=False, residual="alu", fused_relu=False)


def search_schedule(layer: Window, config: VtaConfig) -> Schedule:
    """The fastest schedule found for a layer at the realistic memory; equal layers are searched once."""
    anonymous = replace(layer, name="layer", source="input")
    if isinstance(anonymous, Conv) and anonymous.add is not None:
        anonymous = replace(anonymous, add="residual")
    return _search(anonymous, config)


@cache
def _search(layer: Window, config: VtaConfig) -> Schedule:
    fitting = sorted(((_work(found), index, found) for index, found in enumerate(_candidates(layer, config))))
    ranked = sorted((_estimate(found), index, found) for _, index, found in fitting[:RANKED])
    if not ranked:
        raise LoweringError(f"layer {layer.name!r} fits the buffers with no tile; its kernel or width is too large")
    measured = [(*_measure(layer, found.schedule, config), index, found.schedule) for _, index, found in ranked[:KEPT]]
    limit = min(measured)[0] * (1 + SLACK)
    return min((moved, cycles, index, schedule) for cycles, moved, index, schedule in measured if cycles <= limit)[3]


def _candidates(layer: Window, config: VtaConfig) -> Iterator[Plan]:
    _, height, width = layer.out_shape
    outs, ins = -(-layer.out_channels // config.block), -(-layer.channels // config.block)
    reduces = isinstance(layer, Conv) and not layer.depthwise
    for rows in _pieces(height):
        for columns in (width,) if width <= 64 else _pieces(width):
            for out in _pieces(outs):
                for chunk in _pieces(ins) if reduces else (1,):
                    yield from _variants(layer, Schedule(rows, columns, chunk, out), config)


def _variants(layer: Window, tiles: Schedule, config: VtaConfig) -> Iterator[Plan]:
    """One shape of tile in each order, loading further ahead, weights resident, leaving out what comes to the same."""
    try:
        first = plan(layer, tiles, config)
    except LoweringError:
        return
    places, outs, chunks = len(first.spatial_tiles()), len(first.out_tiles()), len(first.in_chunks())
    if places * outs * chunks > MOST_STEPS:
        return
    yield first
    if places * outs * chunks > 4 and first.input_slots == 2:
        yield from (plan(layer, replace(tiles, ahead=slots), config) for slots in (4, 10))
    if places > 1 and outs > 1:
        yield plan(layer, replace(tiles, order="channels"), config)
    if places > 1 and outs * chunks > 2:
        try:
            yield plan(layer, replace(tiles, resident=True), config)
        except LoweringError:
            return


def _pieces(size: int) -> list[int]:
    """Tile sizes that cut `size` into 1, 2, 3, ... nearly equal parts, without repeats."""
    return sorted({-(-size // parts) for parts in range(1, size + 1)})


def _work(found: Plan) -> int:
    """A first sieve: instruction overhead of all steps, and what loads before the first pass."""
    steps = len(found.spatial_tiles()) * len(found.out_tiles()) * (8 + len(found.in_chunks()))
    return 7 * steps + found.input_slot * 2 + found.weight_slot * 32


def _estimate(found: Plan) -> float:
    """Cycles of a two-stage pipeline: each step's load may start when the bus is free and the step `ahead` places
    before it has been computed; its computation starts when it is loaded. Tag and row details are left to the
    simulation."""
    layer, schedule = found.layer, found.schedule
    chunks, window = found.in_chunks(), layer.kernel**2
    alu = found.positions * 2 if isinstance(layer, MaxPool) else 5
    held_inputs: list[object] = []
    held_weights: list[object] = []
    bus = computed = 0.0
    steps: list[float] = []
    for tile in (tile for group in found.groups() for tile in group):
        vectors, area = tile.outs * tile.area, patch(layer, tile)
        residual = int(layer.residual is not None)
        for first, count in chunks:
            blocks = count if found.reduces else tile.outs
            load = 0
            place = (tile.row, tile.column, first, None if found.reduces else tile.out)
            if _fetch(held_inputs, place, found.input_slots):
                load += blocks * area.rows * area.columns * 2
            if found.weight_slot and _fetch(held_weights, (tile.out, first), found.weight_slots):
                load += tile.outs * (count if found.reduces else 1) * window * 32
            free = steps[-schedule.ahead] if len(steps) >= schedule.ahead else 0.0
            bus = max(bus, free) + load
            computed = max(computed, bus) + vectors * window * (count if found.reduces else 1) + 7
            steps.append(computed)
        computed += vectors * (found.positions + alu + residual) + 8 * 7
        bus += vectors * 2 * (1 + residual)
    return max(bus, computed) + 3 * tile.outs * tile.area


def _fetch(held: list[object], key: object, slots: int) -> bool:
    """Whether `key` must be loaded, in a least-recently-used store of `slots` entries."""
    missing = key not in held
    if not missing:
        held.remove(key)
    held.append(key)
    del held[: max(0, len(held) - max(1, slots))]
    return missing


def _measure(layer: Window, schedule: Schedule, config: VtaConfig) -> tuple[int, int]:
    """Cycles of a layer by itself, and bytes moved, its authentication included; a layer with too many micro-ops counts
    as never done."""
    try:
        program, regions = lower_alone(layer, schedule, config)
    except LoweringError:
        return 1 << 60, 0
    stream = regions[f"{layer.name}:instructions"]
    report = LayerSimulation(program, stream, config, PIPELINED, DRAM, Unchanged(), Checking()).run()
    accesses = uses([program], regions, config)
    extra = sum(cheapest(region.size, accesses[name])[0] for name, region in regions.items())
    return report.cycles, report.bytes_moved + extra
