"""A network to a `VtaProgram`: DRAM layout, one stream a layer, each by the schedule chosen for it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privlib.ginseng import networks
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.config import PUBLISHED, VtaConfig
from privlib.ginseng.vta.lowering import lower_layer, place_activation
from privlib.ginseng.vta.network import Network, Window
from privlib.ginseng.vta.program import Layout, VtaProgram
from privlib.ginseng.vta.schedule import Schedule
from privlib.ginseng.vta.tiling import published_schedule, search_schedule

if TYPE_CHECKING:
    import torch

    from privlib.ginseng.int8 import QuantisedModel

TILINGS: Mapping[str, Callable[[Window, VtaConfig], Schedule]] = {
    "search": search_schedule,
    "published": published_schedule,
}


def lower(
    network: "Network | str | torch.nn.Module",
    calibration_images: npt.NDArray[np.float32] | None = None,
    *,
    config: VtaConfig = PUBLISHED,
    tiling: str = "search",
    schedules: Mapping[str, Schedule] | None = None,
) -> VtaProgram:
    """Lower a network to instruction streams: a quantised one, a table of `privlib.ginseng.networks` by name, or a
    trained PyTorch model, which is quantised to int8 first (`privlib.ginseng.quantise`; the program's `quantised` then
    holds its integers and scales).

    calibration_images  for a PyTorch model: preprocessed float32 (N, C, H, W), a few hundred
    tiling              "search" (our own) or "published" (the tiles of TopHub's record for VTA, where it has the shape)
    schedules           overrides it for layers by name

    Raises LoweringError for what does not fit or cannot be quantised.
    """
    quantised: QuantisedModel | None = None
    if isinstance(network, str):
        network = networks.build(network)
    elif not isinstance(network, Network):
        from privlib.ginseng.quantise import quantise

        if calibration_images is None:
            raise LoweringError("a PyTorch model is quantised first: give calibration_images, a few hundred of them")
        quantised = quantise(network, calibration_images)
        network = quantised.network
    if tiling not in TILINGS:
        raise LoweringError(f"no tiling called {tiling!r}; there are {', '.join(TILINGS)}")
    layout = Layout()
    place_activation(layout, "input", network.input_shape, config)
    layers = []
    for layer in network.layers:
        schedule = (schedules or {}).get(layer.name) or TILINGS[tiling](layer, config)
        layers.append(lower_layer(layer, schedule, layout, config))
    return VtaProgram(network, config, tuple(layers), layout.regions, quantised)
