"""One layer to one instruction stream: loads ahead of their use, GEMM over micro-ops, ALU epilogue, stores.

A tile of the output stays in accumulators while input channels arrive in steps. What each instruction must wait for (a
slot's loader before its use, its last user before it is overwritten) is stated here; `Stream` makes dependence bits of
it.
"""

from collections.abc import Mapping
from itertools import product

from privlib.ginseng.vta.config import VtaConfig
from privlib.ginseng.vta.isa import Alu, AluOp, Gemm, Load, Memory, Store
from privlib.ginseng.vta.network import Conv, MaxPool
from privlib.ginseng.vta.program import Region, WeightTile, element_bytes
from privlib.ginseng.vta.schedule import Patch, Plan, Tile, patch
from privlib.ginseng.vta.stream import Axis, Slot, SlotPool, Stream, expand


class Emitter:
    """State while one layer is lowered. `run` fills the stream; `weight_tiles` then says how weights lie in DRAM."""

    def __init__(self, plan: Plan, regions: Mapping[str, Region], config: VtaConfig) -> None:
        self.plan, self.layer, self.regions, self.config = plan, plan.layer, regions, config
        self.stream = Stream(config)
        self.weight_tiles: dict[WeightTile, int] = {}
        self._weights_placed = 1 if plan.identity else 0
        reuse = plan.schedule.reuse
        self.inputs = SlotPool([Slot(n * plan.input_slot) for n in range(plan.input_slots)], reuse)
        self.weights = SlotPool([Slot(n * plan.weight_slot) for n in range(plan.weight_slots)] or [Slot(0)], reuse)
        self.accumulators = SlotPool(
            [Slot(plan.bias + n * plan.accumulator_slot) for n in range(plan.accumulator_slots)], reuse=False
        )
        self._identity_slot = config.weight_depth - 1
        self._identity_load: int | None = None

    def run(self) -> None:
        if self.plan.bias:
            self._load(Memory.ACC, self.regions["bias"], 0, 0, self.plan.out_blocks)
        if self.plan.identity:
            self._identity_load = self._load(Memory.WGT, self.regions["weights"], 0, self._identity_slot, 1)
        for group in self.plan.groups():
            self._group(group)

    def _group(self, tiles: list[Tile]) -> None:
        """Tiles step by step in turn, then each one's epilogue and store."""
        contexts = [number if self.plan.schedule.interleave else None for number in range(len(tiles))]
        slots = [self.accumulators.take(tile, context)[0] for tile, context in zip(tiles, contexts, strict=True)]
        for tile, slot in zip(tiles, slots, strict=True):
            count = self.plan.positions * tile.outs * tile.area
            begin, end = self.stream.single(slot.base, 0)
            self.stream.add(Gemm(reset=True, uop_begin=begin, uop_end=end, iter_in=count, dst_factor_in=1), [slot.user])
        for first, count in self.plan.in_chunks():
            for tile, slot, context in zip(tiles, slots, contexts, strict=True):
                self._step(tile, slot, first, count, context)
        for tile, slot in zip(tiles, slots, strict=True):
            if self.layer.residual is not None:
                if self.plan.schedule.residual == "gemm":
                    self._residual_by_gemm(tile, slot)
                else:
                    self._residual_by_alu(tile, slot)
            slot.user = self._store(tile, slot, self._epilogue(tile, slot))

    def _step(self, tile: Tile, accumulator: Slot, first: int, count: int, context: int | None) -> None:
        """Load (unless held) and multiply one chunk of input channels into a tile."""
        area = patch(self.layer, tile)
        first, count = (first, count) if self.plan.reduces else (tile.out, tile.outs)
        data, held = self.inputs.take((tile.row, tile.column, first), context)
        if not held:
            data.loader = self._load_patch(area, first, count, data)
        loads = [data.loader]
        weight_base = self._identity_slot
        if isinstance(self.layer, Conv):
            key = WeightTile(tile.out, tile.outs, first if self.plan.reduces else 0, count if self.plan.reduces else 1)
            matrices, held = self.weights.take(key, context)
            if not held:
                matrices.loader = self._load_weights(key, matrices)
            loads.append(matrices.loader)
            weight_base = matrices.base
        else:
            matrices = None
            loads.append(self._identity_load)
        done = self._gemm(self._axes(tile, area, count), (accumulator.base, data.base, weight_base), loads)
        data.user = done
        if matrices is not None:
            matrices.user = done

    def _axes(self, tile: Tile, area: Patch, count: int) -> list[Axis]:
        size, stride = self.layer.kernel, self.layer.stride
        window = size * size if isinstance(self.layer, Conv) else 0
        step = 1 if window else 0
        spread = tile.outs * tile.area if isinstance(self.layer, MaxPool) else 0
        axes: list[Axis] = [(size, size * spread, area.width, size * step), (size, spread, 1, step)]
        if self.plan.reduces:
            axes += [(count, 0, area.area, window), (tile.outs, tile.area, 0, count * window)]
        else:
            axes += [(tile.outs, tile.area, area.area, window)]
        if size == 1 and stride == 1:
            return [*axes, (tile.area, 1, 1, 0)]
        return [*axes, (tile.rows, tile.columns, stride * area.width, 0), (tile.columns, 1, stride, 0)]

    def _gemm(self, axes: list[Axis], bases: tuple[int, int, int], needs: list[int | None]) -> int:
        """One GEMM: the two longest axes are its loops, the others become micro-ops."""
        longest = sorted(axes, key=lambda axis: -axis[0])
        outer, inner, rest = longest[1], longest[0], longest[2:]
        begin, end = self.stream.kernel((bases, tuple(rest)), lambda: expand(bases, rest))
        # A loop that runs once never takes its step, which may be wider than the field.
        out, once = ((step if outer[0] > 1 else 0) for step in outer[1:]), inner[0] == 1
        dst_out, src_out, wgt_out = out
        dst_in, src_in, wgt_in = (0, 0, 0) if once else inner[1:]
        return self.stream.add(
            Gemm(
                uop_begin=begin,
                uop_end=end,
                iter_out=outer[0],
                iter_in=inner[0],
                dst_factor_out=dst_out,
                dst_factor_in=dst_in,
                src_factor_out=src_out,
                src_factor_in=src_in,
                wgt_factor_out=wgt_out,
                wgt_factor_in=wgt_in,
            ),
            needs,
        )

    def _residual_by_gemm(self, tile: Tile, accumulator: Slot) -> None:
        """acc += (identity << shift) @ residual, as many channel blocks at a time as an input slot holds."""
        per_load = max(1, self.plan.input_slot // tile.area)
        for offset in range(0, tile.outs, per_load):
            count = min(per_load, tile.outs - offset)
            data, _ = self.inputs.take(("residual", tile, offset), 0 if self.plan.schedule.interleave else None)
            data.loader = self._load_area(Memory.INP, "residual", tile, offset, count, data.base, [data.user])
            data.user = self._gemm(
                [(count, tile.area, tile.area, 0), (tile.area, 1, 1, 0)],
                (accumulator.base + offset * tile.area, data.base, self._identity_slot),
                [data.loader, self._identity_load],
            )

    def _residual_by_alu(self, tile: Tile, accumulator: Slot) -> None:
        scratch = self.config.accumulator_depth - self.plan.scratch
        rows = min(tile.rows, self.plan.scratch // tile.columns)
        shift = self.layer.residual_shift if isinstance(self.layer, Conv) else 0
        for offset, row in product(range(tile.outs), range(0, tile.rows, rows)):
            part = Tile(tile.row + row, min(rows, tile.rows - row), tile.column, tile.columns, tile.out, tile.outs)
            self._load_area(Memory.ACC_8BIT, "residual", part, offset, 1, scratch, [])
            if shift:
                self._alu(AluOp.SHR, scratch, part.area, immediate=-shift)
            base = accumulator.base + offset * tile.area + row * tile.columns
            begin, end = self.stream.single(base, scratch)
            self.stream.add(Alu(uop_begin=begin, uop_end=end, iter_in=part.area, dst_factor_in=1, src_factor_in=1))

    def _epilogue(self, tile: Tile, slot: Slot) -> int:
        """Bias, ReLU, shift, clip, or the maximum of a window; returns the last instruction."""
        count, base = tile.outs * tile.area, slot.base
        if isinstance(self.layer, MaxPool):
            last = -1
            for position in range(1, self.plan.positions):
                begin, end = self.stream.single(base, base + position * count)
                last = self.stream.add(
                    Alu(op=AluOp.MAX, uop_begin=begin, uop_end=end, iter_in=count, dst_factor_in=1, src_factor_in=1)
                )
            return last if last >= 0 else self._alu(AluOp.MAX, base, count, immediate=-128)
        relu = isinstance(self.layer, Conv) and self.layer.relu
        if self.plan.bias:
            begin, end = self.stream.single(base, tile.out)
            self.stream.add(
                Alu(
                    uop_begin=begin,
                    uop_end=end,
                    iter_out=tile.outs,
                    iter_in=tile.area,
                    dst_factor_out=tile.area if tile.outs > 1 else 0,
                    dst_factor_in=1,
                    src_factor_out=1,
                )
            )
        if relu and not self.plan.schedule.fused_relu:
            self._alu(AluOp.MAX, base, count, immediate=0)
        if self.layer.shift:
            self._alu(AluOp.SHR, base, count, immediate=self.layer.shift)
        self._alu(AluOp.MIN, base, count, immediate=127)
        return self._alu(AluOp.MAX, base, count, immediate=0 if relu and self.plan.schedule.fused_relu else -128)

    def _alu(self, op: AluOp, base: int, count: int, *, immediate: int) -> int:
        begin, end = self.stream.single(base, base)
        return self.stream.add(
            Alu(
                op=op,
                use_immediate=True,
                immediate=immediate,
                uop_begin=begin,
                uop_end=end,
                iter_in=count,
                dst_factor_in=1,
                src_factor_in=1,
            )
        )

    def _load_patch(self, area: Patch, first: int, count: int, slot: Slot) -> int:
        """A tile's input: one DMA where nothing is padded and columns are whole, else one for each channel block."""
        layer = self.layer
        whole = area.columns == layer.width and not any(area.row_pads + area.column_pads)
        base = self.regions["source"].base // element_bytes(Memory.INP, self.config)
        plane = layer.height * layer.width
        start = base + first * plane + area.row * layer.width + area.column
        if whole:
            size = area.rows * layer.width
            return self.stream.add(
                Load(
                    memory=Memory.INP, sram_base=slot.base, dram_base=start, y_size=count, x_size=size, x_stride=plane
                ),
                [slot.user],
            )
        number = -1
        for block in range(count):
            number = self.stream.add(
                Load(
                    memory=Memory.INP,
                    sram_base=slot.base + block * area.area,
                    dram_base=start + block * plane,
                    y_size=area.rows,
                    x_size=area.columns,
                    x_stride=layer.width,
                    y_pad_0=area.row_pads[0],
                    y_pad_1=area.row_pads[1],
                    x_pad_0=area.column_pads[0],
                    x_pad_1=area.column_pads[1],
                ),
                [slot.user],
            )
        return number

    def _load_weights(self, key: WeightTile, slot: Slot) -> int:
        size = key.out_blocks * key.in_blocks * self.layer.kernel**2
        if key not in self.weight_tiles:
            self.weight_tiles[key] = self._weights_placed
            self._weights_placed += size
        return self._load(Memory.WGT, self.regions["weights"], self.weight_tiles[key], slot.base, size, [slot.user])

    def _load(
        self, memory: Memory, region: Region, offset: int, sram: int, size: int, needs: list[int | None] | None = None
    ) -> int:
        base = region.base // element_bytes(memory, self.config)
        return self.stream.add(
            Load(memory=memory, sram_base=sram, dram_base=base + offset, x_size=size, x_stride=size), needs or []
        )

    def _load_area(
        self, memory: Memory, region: str, tile: Tile, offset: int, count: int, sram: int, needs: list[int | None]
    ) -> int:
        number = -1
        for start, size, rows, columns, stride in self._area(region, tile, offset, count):
            number = self.stream.add(
                Load(
                    memory=memory, sram_base=sram + start, dram_base=size, y_size=rows, x_size=columns, x_stride=stride
                ),
                needs,
            )
        return number

    def _store(self, tile: Tile, slot: Slot, after: int) -> int:
        number = -1
        for start, dram, rows, columns, stride in self._area("output", tile, 0, tile.outs):
            number = self.stream.add(
                Store(
                    memory=Memory.OUT,
                    sram_base=slot.base + start,
                    dram_base=dram,
                    y_size=rows,
                    x_size=columns,
                    x_stride=stride,
                ),
                [after],
            )
        return number

    def _area(self, region: str, tile: Tile, offset: int, count: int) -> list[tuple[int, int, int, int, int]]:
        """DMAs over `count` channel blocks of a tile of the output's shape: (on-chip offset, DRAM element, rows, row
        size, stride); whole rows of all blocks are a single one."""
        _, height, width = self.layer.out_shape
        plane = height * width
        start = (
            self.regions[region].base // element_bytes(Memory.OUT, self.config)
            + (tile.out + offset) * plane
            + tile.row * width
            + tile.column
        )
        if tile.columns == width:
            return [(0, start, count, tile.area, plane)]
        return [(block * tile.area, start + block * plane, tile.rows, tile.columns, width) for block in range(count)]
