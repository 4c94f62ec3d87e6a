"""A quantised network: its integers, its scales, and its exact arithmetic over batches of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from privlib.ginseng.vta.network import Conv, MaxPool, Network, Parameters, SumPool, Window

_EXPONENTS_TRIED = 4
_BATCH = 250


@dataclass(frozen=True, eq=False)
class QuantisedModel:
    """A network in integers: its layers, int8 weights and int32 biases by layer name, and each tensor's exponent."""

    network: Network
    parameters: Parameters
    exponents: Mapping[str, int]

    def quantise_images(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        """Preprocessed float32 (N, C, H, W) images as the int8 input of the network."""
        return round_to_int8(torch.from_numpy(images), self.exponents["input"]).to(torch.int8).numpy()

    def dequantise(self, logits: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
        """int8 outputs as real numbers."""
        return (logits / np.float32(2.0 ** self.exponents[self.network.output])).astype(np.float32)

    def reference(self, images: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Int8 outputs (N, classes) of int8 (N, C, H, W) images by exact integer arithmetic in PyTorch, for accuracy
        over many images. The functional simulator gives the same bits, one image at a time."""
        batches = [torch.from_numpy(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate([self._forward(batch).to(torch.int8).numpy() for batch in batches])

    def _forward(self, images: Tensor) -> Tensor:
        tensors = {"input": images.double()}  # every sum stays far below 2**53: float64 is exact
        for layer in self.network.layers:
            sums = self._sums(layer, tensors)
            tensors[layer.name] = torch.floor(sums / 2**layer.shift).clamp(-128, 127)
        return tensors[self.network.output].flatten(1)

    def _sums(self, layer: Window, tensors: Mapping[str, Tensor]) -> Tensor:
        source = tensors[layer.source]
        if isinstance(layer, MaxPool):
            return nn.functional.max_pool2d(source, layer.kernel, layer.stride)
        if isinstance(layer, SumPool):
            return nn.functional.avg_pool2d(source, layer.kernel, layer.stride, divisor_override=1)
        assert isinstance(layer, Conv)
        weights, bias = (torch.from_numpy(each).double() for each in self.parameters[layer.name])
        groups = layer.channels if layer.depthwise else 1
        sums = nn.functional.conv2d(source, weights, bias, layer.stride, layer.pad, groups=groups)
        if layer.add is not None:
            sums = sums + tensors[layer.add] * 2**layer.residual_shift
        return sums.clamp(min=0) if layer.relu else sums


def round_to_int8(values: Tensor, exponent: int) -> Tensor:
    """Nearest integers in [-128, 127] of values times 2**exponent; halves go up, as the accelerator's shift does."""
    return torch.floor(values.double() * 2.0**exponent + 0.5).clamp(-128, 127)


def best_exponent(values: Tensor) -> int:
    """The exponent with the smallest mean squared error: from the largest that clips nothing, a few finer ones."""
    largest = float(values.abs().max())
    if largest == 0:
        return 0
    first = -ceil(log2(largest / 127))
    return min(range(first, first + _EXPONENTS_TRIED), key=lambda exponent: _error(values, exponent))


def _error(values: Tensor, exponent: int) -> float:
    return float((round_to_int8(values, exponent) / 2.0**exponent - values.double()).square().mean())
