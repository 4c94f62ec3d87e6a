"""One layer to a `LayerProgram`: its tensors placed in DRAM, its stream emitted, the stream's own regions placed
after."""

from privlib.ginseng.vta.config import INSTRUCTION_BYTES, UOP_BYTES, VtaConfig
from privlib.ginseng.vta.emit import Emitter
from privlib.ginseng.vta.isa import Memory
from privlib.ginseng.vta.network import Conv, Shape, Window
from privlib.ginseng.vta.program import Kind, LayerProgram, Layout, Region, blocks, element_bytes
from privlib.ginseng.vta.schedule import Schedule, plan


def place_activation(layout: Layout, name: str, shape: Shape, config: VtaConfig) -> Region:
    """A region for an int8 tensor of `shape` (C, H, W)."""
    channels, height, width = shape
    return layout.add(name, Kind.ACTIVATIONS, blocks(channels, config.block) * height * width * config.input_bytes)


def lower_layer(layer: Window, schedule: Schedule, layout: Layout, config: VtaConfig) -> LayerProgram:
    """Lower a layer whose source and residual have regions in `layout`. LoweringError when the schedule does not
    fit."""
    chosen = plan(layer, schedule, config)
    matrices = int(chosen.identity)
    if isinstance(layer, Conv):
        matrices += chosen.out_blocks * (chosen.in_blocks if chosen.reduces else 1) * layer.kernel**2
    regions = {"source": layout.regions[layer.source]}
    if layer.residual is not None:
        regions["residual"] = layout.regions[layer.residual]
    if chosen.bias:
        regions["bias"] = layout.add(f"{layer.name}:bias", Kind.BIAS, chosen.bias * element_bytes(Memory.ACC, config))
    regions["weights"] = layout.add(f"{layer.name}:weights", Kind.WEIGHTS, matrices * config.weight_bytes)
    regions["output"] = place_activation(layout, layer.name, layer.out_shape, config)
    emitter = Emitter(chosen, regions, config)
    emitter.run()
    uops = layout.add(f"{layer.name}:uops", Kind.UOPS, len(emitter.stream.uops) * UOP_BYTES)
    instructions, table = emitter.stream.finish(uops.base // UOP_BYTES)
    layout.add(f"{layer.name}:instructions", Kind.INSTRUCTIONS, len(instructions) * INSTRUCTION_BYTES)
    return LayerProgram(layer, tuple(instructions), table, tuple(emitter.weight_tiles), chosen.identity, schedule)


def lower_alone(layer: Window, schedule: Schedule, config: VtaConfig) -> tuple[LayerProgram, dict[str, Region]]:
    """A layer by itself, for judging a schedule: its inputs get regions of their own."""
    layout = Layout()
    place_activation(layout, layer.source, layer.in_shape, config)
    if layer.residual is not None and layer.residual not in layout.regions:
        place_activation(layout, layer.residual, layer.out_shape, config)
    return lower_layer(layer, schedule, layout, config), layout.regions
