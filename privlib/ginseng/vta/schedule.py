"""How one layer is cut into tiles: the choices, and the geometry that follows from them."""

from dataclasses import dataclass

from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.config import VtaConfig
from privlib.ginseng.vta.network import Conv, MaxPool, Window
from privlib.ginseng.vta.program import blocks


@dataclass(frozen=True)
class Schedule:
    """Tile sizes in output rows, output columns, and channel blocks, and how tiles follow each other.

    order       "rows": all output channels of one place before the next place; "channels": the other way round
    interleave  "": one tile after the other, each loading ahead of the one before; "out" or "rows": two tiles side by
                side in two contexts along that axis (VTA's virtual threads)
    reuse       keep what a slot holds when the next tile needs it again
    resident    hold every weight tile of the layer on chip at once
    residual    "gemm": the residual enters as one more reduction step with an identity matrix, through the load engine;
                "alu": the compute engine loads it into accumulators and adds it
    ahead       slots of inputs and of weights (where they fit), and so how many steps loads may run ahead
    fused_relu  clip to 0..127 at once instead of ReLU, then clip
    """

    tile_rows: int
    tile_columns: int
    tile_in: int
    tile_out: int
    order: str = "rows"
    interleave: str = ""
    reuse: bool = True
    resident: bool = False
    residual: str = "gemm"
    fused_relu: bool = True
    ahead: int = 2


@dataclass(frozen=True)
class Tile:
    """A piece of the output: first row, rows, first column, columns, first channel block, channel blocks."""

    row: int
    rows: int
    column: int
    columns: int
    out: int
    outs: int

    @property
    def area(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Patch:
    """The input under a tile: what is read, and the zeros around it (before and after)."""

    row: int
    rows: int
    row_pads: tuple[int, int]
    column: int
    columns: int
    column_pads: tuple[int, int]

    @property
    def height(self) -> int:
        return self.rows + sum(self.row_pads)

    @property
    def width(self) -> int:
        return self.columns + sum(self.column_pads)

    @property
    def area(self) -> int:
        return self.height * self.width


def _span(first: int, count: int, layer: Window, size: int, *, whole: bool) -> tuple[int, int, tuple[int, int]]:
    """First, count and pads of the input under `count` outputs. A stride wider than the kernel leaves the last columns
    of a row unread; with `whole` they are read too, so that rows join in memory."""
    begin = first * layer.stride - layer.padding
    end = begin + (count - 1) * layer.stride + layer.kernel
    if whole and end < size <= end + layer.stride - layer.kernel:
        end = size
    pads = (max(0, -begin), max(0, end - size))
    return max(0, begin), min(size, end) - max(0, begin), pads


def patch(layer: Window, tile: Tile) -> Patch:
    return Patch(
        *_span(tile.row, tile.rows, layer, layer.height, whole=False),
        *_span(tile.column, tile.columns, layer, layer.width, whole=True),
    )


@dataclass(frozen=True)
class Plan:
    """A schedule that fits: slot sizes and counts in elements of each buffer."""

    layer: Window
    schedule: Schedule
    in_blocks: int
    out_blocks: int
    reduces: bool
    """Whether all input channels add up in each output channel (not so for depthwise layers and pools)."""
    positions: int
    """Accumulator regions a tile needs: one, or one for each place in a maximum pool's window."""
    input_slot: int
    input_slots: int
    weight_slot: int
    weight_slots: int
    accumulator_slot: int
    accumulator_slots: int
    bias: int
    scratch: int
    identity: bool

    def spatial_tiles(self) -> list[tuple[int, int, int, int]]:
        _, height, width = self.layer.out_shape
        rows, columns = self.schedule.tile_rows, self.schedule.tile_columns
        return [
            (row, min(rows, height - row), column, min(columns, width - column))
            for row in range(0, height, rows)
            for column in range(0, width, columns)
        ]

    def out_tiles(self) -> list[tuple[int, int]]:
        size = self.schedule.tile_out
        return [(out, min(size, self.out_blocks - out)) for out in range(0, self.out_blocks, size)]

    def in_chunks(self) -> list[tuple[int, int]]:
        """Reduction steps over input blocks; a single dummy step where channels do not add up."""
        if not self.reduces:
            return [(0, 0)]
        size = self.schedule.tile_in
        return [(first, min(size, self.in_blocks - first)) for first in range(0, self.in_blocks, size)]

    def groups(self) -> list[list[Tile]]:
        """Tiles in order; those of one inner list share the engines step by step."""
        places, outs = self.spatial_tiles(), self.out_tiles()
        schedule = self.schedule
        if schedule.interleave == "out":
            return [[Tile(*place, *out) for out in outs[n : n + 2]] for place in places for n in range(0, len(outs), 2)]
        if schedule.interleave == "rows":
            return [
                [Tile(*place, *out) for place in places[n : n + 2]] for n in range(0, len(places), 2) for out in outs
            ]
        if schedule.order == "channels":
            return [[Tile(*place, *out)] for out in outs for place in places]
        return [[Tile(*place, *out)] for place in places for out in outs]


def plan(layer: Window, schedule: Schedule, config: VtaConfig) -> Plan:
    """Check a schedule against the buffers. LoweringError says which buffer is too small for it."""
    ins, outs = blocks(layer.channels, config.block), blocks(layer.out_channels, config.block)
    reduces = isinstance(layer, Conv) and not layer.depthwise
    convolves = isinstance(layer, Conv)
    _, height, width = layer.out_shape
    largest = Tile(
        0, min(schedule.tile_rows, height), 0, min(schedule.tile_columns, width), 0, min(schedule.tile_out, outs)
    )
    area = ((largest.rows - 1) * layer.stride + layer.kernel) * (
        (largest.columns - 1) * layer.stride + max(layer.kernel, layer.stride)
    )
    chunk = min(schedule.tile_in, ins) if reduces else largest.outs
    residual = layer.residual is not None
    through_gemm = residual and schedule.residual == "gemm"

    contexts = 2 if schedule.interleave else 0
    input_slot = max(chunk * area, largest.area if through_gemm else 0)
    identity = not convolves or through_gemm
    weight_slot = largest.outs * (chunk if reduces else 1) * layer.kernel**2 if convolves else 0
    out_tiles, chunks = -(-outs // largest.outs), -(-ins // chunk) if reduces else 1
    places = -(-height // schedule.tile_rows) * -(-width // schedule.tile_columns)
    weight_keys = out_tiles * chunks
    input_keys = places * (chunks if reduces else out_tiles) + (1 if through_gemm else 0)
    wanted_inputs = min(schedule.ahead, input_keys)
    positions = layer.kernel**2 if isinstance(layer, MaxPool) else 1
    accumulator_slot = positions * largest.outs * largest.area
    bias = outs if convolves else 0

    input_slots = contexts or min(config.input_depth // input_slot, wanted_inputs)
    weight_room = config.weight_depth - (1 if identity else 0)
    weight_slots = contexts or (weight_keys if schedule.resident else min(schedule.ahead, weight_keys))
    if convolves and not schedule.resident and not contexts:
        weight_slots = min(weight_slots, weight_room // weight_slot)
    accumulator_slots = contexts or min(2, out_tiles * places, (config.accumulator_depth - bias) // accumulator_slot)
    scratch = config.accumulator_depth - bias - accumulator_slots * accumulator_slot
    for buffer, used, depth in (
        ("input", max(1, input_slots) * input_slot, config.input_depth),
        ("weight", max(1, weight_slots) * weight_slot, weight_room),
        ("accumulator", max(1, accumulator_slots) * accumulator_slot + bias, config.accumulator_depth),
    ):
        if used > depth:
            raise LoweringError(
                f"layer {layer.name!r}: the tile needs {used} elements of the {buffer} buffer, which holds "
                f"{depth}; use a smaller tile"
            )
    if residual and not through_gemm and scratch < largest.columns:
        raise LoweringError(f"layer {layer.name!r}: no accumulators are left to load the residual; use a smaller tile")
    return Plan(
        layer,
        schedule,
        ins,
        outs,
        reduces,
        positions,
        input_slot,
        input_slots,
        weight_slot,
        weight_slots,
        accumulator_slot,
        accumulator_slots,
        bias,
        scratch,
        identity,
    )
