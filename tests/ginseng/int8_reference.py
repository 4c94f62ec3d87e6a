"""An int8 reference of the layer definitions in PyTorch's integer and float64 arithmetic, written apart from the
lowering."""

import numpy as np
import numpy.typing as npt
import torch

from privlib.ginseng.vta.network import Conv, MaxPool, Network, Parameters, SumPool


def forward(network: Network, parameters: Parameters, image: npt.NDArray[np.int8]) -> dict[str, npt.NDArray[np.int8]]:
    """Every tensor of the network by name, (C, H, W) int8."""
    tensors = {"input": torch.from_numpy(image.astype(np.int64))}
    for layer in network.layers:
        x = tensors[layer.source]
        if isinstance(layer, Conv):
            weights, bias = (torch.from_numpy(p.astype(np.float64)) for p in parameters[layer.name])
            sums = torch.nn.functional.conv2d(
                x.double()[None],
                weights,
                bias,
                layer.stride,
                layer.padding,
                groups=layer.channels if layer.depthwise else 1,
            )[0].long()
            if layer.add is not None:
                sums = sums + (tensors[layer.add] << layer.residual_shift)
            if layer.relu:
                sums = sums.clamp(min=0)
        elif isinstance(layer, MaxPool):
            sums = torch.nn.functional.max_pool2d(x.double()[None], layer.kernel, layer.stride)[0].long()
        else:
            assert isinstance(layer, SumPool)
            sums = (
                (torch.nn.functional.avg_pool2d(x.double()[None], layer.kernel, layer.stride)[0] * layer.kernel**2)
                .round()
                .long()
            )
        tensors[layer.name] = (sums >> layer.shift).clamp(-128, 127)
    return {name: tensor.numpy().astype(np.int8) for name, tensor in tensors.items()}
