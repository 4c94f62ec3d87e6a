"""A network to a `VtaProgram`: DRAM layout, one stream a layer, each by the schedule chosen for it."""

from collections.abc import Callable, Mapping

from privlib.ginseng import networks
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.config import PUBLISHED, VtaConfig
from privlib.ginseng.vta.lowering import lower_layer, place_activation
from privlib.ginseng.vta.network import Network, Window
from privlib.ginseng.vta.program import Layout, VtaProgram
from privlib.ginseng.vta.schedule import Schedule
from privlib.ginseng.vta.tiling import published_schedule, search_schedule

TILINGS: Mapping[str, Callable[[Window, VtaConfig], Schedule]] = {
    "search": search_schedule,
    "published": published_schedule,
}


def lower(
    network: Network | str,
    *,
    config: VtaConfig = PUBLISHED,
    tiling: str = "search",
    schedules: Mapping[str, Schedule] | None = None,
) -> VtaProgram:
    """Lower a quantised network (or a table of `privlib.ginseng.networks` by name) to instruction streams.

    `tiling` is "search" (our own) or "published" (the tiles of TopHub's record for VTA, where it has the shape);
    `schedules` overrides it for layers by name. Raises LoweringError for what does not fit.
    """
    if isinstance(network, str):
        network = networks.build(network)
    if tiling not in TILINGS:
        raise LoweringError(f"no tiling called {tiling!r}; there are {', '.join(TILINGS)}")
    layout = Layout()
    place_activation(layout, "input", network.input_shape, config)
    layers = []
    for layer in network.layers:
        schedule = (schedules or {}).get(layer.name) or TILINGS[tiling](layer, config)
        layers.append(lower_layer(layer, schedule, layout, config))
    return VtaProgram(network, config, tuple(layers), layout.regions)
