"""Quantised int8 networks as data: what each layer computes, in integers, and whose output it reads.

Every layer maps int8 (C, H, W) tensors to an int8 tensor, with int32 sums in between:

    Conv     y = clip((sum w x + bias + (residual << residual_shift), at least 0 when relu) >> shift, -128, 127)
    MaxPool  y = the maximum of each window
    SumPool  y = clip((sum of each window) >> shift, -128, 127): a mean where the window's area is 2 ** shift

`>>` is the arithmetic shift; rounding to nearest is had by adding 2 ** (shift - 1) to the bias. A dense layer is a
convolution whose kernel covers its whole input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log2

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import LoweringError

Shape = tuple[int, int, int]
Parameters = Mapping[str, tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]]
"""Weights (out, in, k, k), or (channels, 1, k, k) when depthwise, and biases (out,) of each convolution by name."""


@dataclass(frozen=True)
class Window:
    """What all layers share: a window of `kernel` x `kernel`, moved by `stride`, over (`channels`, `height`,
    `width`)."""

    name: str
    source: str
    channels: int
    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    shift: int = 0

    @property
    def padding(self) -> int:
        return 0

    @property
    def out_channels(self) -> int:
        return self.channels

    @property
    def in_shape(self) -> Shape:
        return self.channels, self.height, self.width

    @property
    def out_shape(self) -> Shape:
        rows, columns = (
            (size + 2 * self.padding - self.kernel) // self.stride + 1 for size in (self.height, self.width)
        )
        return self.out_channels, rows, columns

    @property
    def macs(self) -> int:
        """Multiplications that the network's definition asks for."""
        return 0

    @property
    def residual(self) -> str | None:
        return None


@dataclass(frozen=True)
class Conv(Window):
    """A convolution (depthwise: one filter a channel, `filters` equal to `channels`)."""

    filters: int = 16
    pad: int = 0
    depthwise: bool = False
    relu: bool = True
    add: str | None = None
    residual_shift: int = 0

    @property
    def padding(self) -> int:
        return self.pad

    @property
    def out_channels(self) -> int:
        return self.filters

    @property
    def residual(self) -> str | None:
        return self.add

    @property
    def macs(self) -> int:
        _, rows, columns = self.out_shape
        return rows * columns * self.filters * (1 if self.depthwise else self.channels) * self.kernel**2

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.filters, 1 if self.depthwise else self.channels, self.kernel, self.kernel


@dataclass(frozen=True)
class MaxPool(Window):
    pass


@dataclass(frozen=True)
class SumPool(Window):
    pass


@dataclass(frozen=True)
class Network:
    """Layers in order of execution; the first reads `input`, the last layer's output is the network's.

    Raises LoweringError when a layer reads a tensor that does not exist yet or has another shape.
    """

    name: str
    input_shape: Shape
    layers: tuple[Window, ...]
    shapes: dict[str, Shape] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shapes = {"input": self.input_shape}
        for layer in self.layers:
            for source, shape in ((layer.source, layer.in_shape), (layer.residual, layer.out_shape)):
                if source is not None and shapes.get(source) != shape:
                    raise LoweringError(
                        f"layer {layer.name!r} reads {source!r} as {shape}, but it is "
                        f"{shapes.get(source, 'not computed yet')}"
                    )
            if layer.name in shapes:
                raise LoweringError(f"two tensors are called {layer.name!r}; rename one layer")
            if min(layer.out_shape) < 1 or layer.shift < 0:
                raise LoweringError(f"layer {layer.name!r} has output {layer.out_shape} and shift {layer.shift}")
            if isinstance(layer, Conv) and layer.depthwise and layer.filters != layer.channels:
                raise LoweringError(f"depthwise layer {layer.name!r} must keep its {layer.channels} channels")
            if isinstance(layer, Conv) and not 0 <= layer.residual_shift <= 6:
                raise LoweringError(f"layer {layer.name!r}: residual_shift must be 0..6, got {layer.residual_shift}")
            shapes[layer.name] = layer.out_shape
        object.__setattr__(self, "shapes", shapes)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def output(self) -> str:
        return self.layers[-1].name


def natural_shift(fan_in: int) -> int:
    """A shift that keeps sums of `fan_in` products of random int8 values mostly inside int8."""
    return round(0.5 * log2(fan_in) + 5)


def random_parameters(network: Network, seed: int) -> dict[str, tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]]:
    """Seeded int8 weights and int32 biases in the full range, for timing and bit-exactness (never for accuracy)."""
    generator = np.random.default_rng(seed)
    return {
        layer.name: (
            generator.integers(-128, 128, layer.weight_shape, dtype=np.int8),
            generator.integers(-20000, 20000, layer.filters, dtype=np.int32),
        )
        for layer in network.layers
        if isinstance(layer, Conv)
    }
