"""A PyTorch network to int8 in the accelerator's shift-and-clip arithmetic, after training (no retraining).

Every tensor gets a power-of-two scale: real = integer / 2**exponent. With exponents x (input), w (weights) and y
(output), a layer's sums have exponent x + w, and `>> (x + w - y)` brings them to y: the accelerator has no other
rescaling. BatchNorm is folded first, and layers are equalised (`privlib.ginseng.equalise`). Each exponent is the one,
of the few that make sense, with the smallest mean squared rounding and clipping error on the calibration images
(weights: on the weights themselves).

| refused | why |
|---|---|
| GroupNorm, LayerNorm and other layers that are not convolutions, dense, ReLU, pools, sums | no shift does it |
| a pool with padding or overlap, a mean over an area that is no power of two | the same |
| a kernel or stride that is not square, dilation, groups other than depthwise | the lowering has no such layer |
| a value read by more than the ReLU or the sum that would be fused into its layer | it would not exist in int8 |
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from privlib.ginseng.equalise import equalise
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.int8 import QuantisedModel, best_exponent, round_to_int8
from privlib.ginseng.vta.network import Conv, MaxPool, Network, Shape, SumPool, Window
from privlib.models import fold_batch_norm

MOST_RESIDUAL_SHIFT = 6


def quantise(model: nn.Module, calibration_images: npt.NDArray[np.float32], name: str = "model") -> QuantisedModel:
    """Quantise a trained model by what a few hundred float32 (N, C, H, W) images make of it.

    Raises LoweringError, naming the layer, for what the accelerator cannot compute.
    """
    if calibration_images.ndim != 4 or not len(calibration_images):
        raise LoweringError(f"calibration images must be (N, C, H, W) with N > 0, got {calibration_images.shape}")
    graph = fx.symbolic_trace(fold_batch_norm(model).eval())
    equalise(graph)
    images = torch.from_numpy(np.ascontiguousarray(calibration_images))
    with torch.inference_mode():
        recorder = _Recorder(graph)
        recorder.run(images)
        return _Import(graph, recorder.seen, name).result()


class _Recorder(fx.Interpreter):
    """Runs the float network and keeps every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.seen[n] = super().run_node(n)
        return self.seen[n]


class _Import:
    """Walks the traced network once, one int8 tensor for each layer; `_names` says which tensor a node's value is."""

    def __init__(self, graph: fx.GraphModule, values: Mapping[fx.Node, Any], name: str) -> None:
        self.graph, self.values, self.name = graph, values, name
        self.modules = dict(graph.named_modules())
        self.layers: list[Window] = []
        self.parameters: dict[str, tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]] = {}
        self.exponents: dict[str, int] = {}
        self._names: dict[fx.Node, str] = {}
        self._shapes: dict[str, Shape] = {}
        self._fused: set[fx.Node] = set()

    def result(self) -> QuantisedModel:
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self._names[node] = "input"
                self._shapes["input"] = tuple(self.values[node].shape[1:])
                self.exponents["input"] = best_exponent(self.values[node])
            elif node.op != "output" and node not in self._fused:
                self._node(node)
        return QuantisedModel(
            Network(self.name, self._shapes["input"], tuple(self.layers)), self.parameters, self.exponents
        )

    def _node(self, node: fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Flatten | nn.Identity | nn.Dropout) or node.target in ("flatten", torch.flatten):
            self._names[node] = self._source(node)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            self._convolution(node, module)
        elif isinstance(module, nn.MaxPool2d):
            self._pool(node, module)
        elif isinstance(module, nn.AdaptiveAvgPool2d) or node.target == "mean":
            self._mean(node)
        else:
            what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
            raise LoweringError(
                f"{node.name} ({what}) has no counterpart in shift-and-clip arithmetic; use convolutions, dense layers "
                "and BatchNorm, each followed by at most a sum and a ReLU, and pools"
            )

    def _source(self, node: fx.Node) -> str:
        origin = node.args[0]
        assert isinstance(origin, fx.Node)
        tensor = self._tensor(origin)
        if tensor is None:
            raise LoweringError(f"{node.name} reads {origin.name}, which is fused into another layer: no int8 value")
        return tensor

    def _add(self, layer: Window, node: fx.Node) -> None:
        self.layers.append(layer)
        self._names[node] = layer.name
        self._shapes[layer.name] = layer.out_shape

    def _convolution(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> None:
        source = self._source(node)
        channels, height, width = self._shapes[source]
        weights = module.weight
        if isinstance(module, nn.Linear):
            weights = weights.reshape(len(weights), channels, height, width)
            stride, pad, depthwise = 1, 0, False
        else:
            stride, pad = _square(node, module)
            depthwise = module.groups > 1
            if depthwise and not module.groups == module.in_channels == module.out_channels:
                raise LoweringError(f"{node.name} has {module.groups} groups; use 1, or one for each channel")
        if weights.shape[2] != weights.shape[3]:
            raise LoweringError(f"{node.name} has a kernel of {tuple(weights.shape[2:])}; it must be square")
        end, residual, relu = self._following(node)
        layer = Conv(
            node.name, source, channels, height, width, weights.shape[2], stride, 0, len(weights), pad, depthwise,
            relu, residual,
        )  # fmt: skip
        self._add(self._quantised(layer, weights, module.bias, self.values[end]), end)

    def _following(self, node: fx.Node) -> tuple[fx.Node, str | None, bool]:
        """The node whose value the layer gives: the sum and the ReLU after it are its own. (node, residual, ReLU?)"""
        residual = None
        end, after = self._next(node)
        if after is not None and after.target in (operator.add, operator.iadd, torch.add, "add"):
            others = [self._tensor(each) for each in after.args if isinstance(each, fx.Node) and each is not end]
            # Where the other operand is computed later, the sum becomes part of that layer.
            if len(others) == 1 and others[0] is not None:
                residual = others[0]
                self._fused.add(after)
                end, after = self._next(after)
        if after is not None and self._is_relu(after):
            self._fused.add(after)
            return after, residual, True
        return end, residual, False

    def _next(self, node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        """The value itself, past what leaves it as it is, and its only user; None where it has several."""
        users = list(node.users)
        while len(users) == 1 and self._is_module(users[0], nn.Identity):
            node = users[0]
            self._fused.add(node)
            users = list(node.users)
        return node, users[0] if len(users) == 1 else None

    def _tensor(self, node: fx.Node) -> str | None:
        """The int8 tensor that a node's value is, if it has been computed."""
        while node not in self._names and self._is_module(node, nn.Identity) and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return self._names.get(node)

    def _is_module(self, node: fx.Node, kind: type[nn.Module]) -> bool:
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], kind)

    def _is_relu(self, node: fx.Node) -> bool:
        return self._is_module(node, nn.ReLU) or node.target in (torch.relu, nn.functional.relu, "relu", "relu_")

    def _quantised(self, layer: Conv, weights: Tensor, bias: Tensor | None, output: Tensor) -> Conv:
        """Choose the layer's exponents, store its integers, and give it its shifts."""
        x, w, y = self.exponents[layer.source], best_exponent(weights), best_exponent(output)
        shift_left = 0
        if layer.add is not None:
            # The residual enters the sums by a left shift of at most six.
            w = min(w, self.exponents[layer.add] + MOST_RESIDUAL_SHIFT - x)
            shift_left = x + w - self.exponents[layer.add]
            if shift_left < 0:
                raise LoweringError(f"{layer.name}: the residual is {-shift_left} bits finer than the sums it joins")
        y = min(y, x + w)
        shift = x + w - y
        self.exponents[layer.name] = y
        half = 1 << shift - 1 if shift else 0
        real = torch.zeros(len(weights)) if bias is None else bias
        integers = torch.round(real.double() * 2.0 ** (x + w)) + half
        if bool((integers.abs() >= 2**31).any()):
            raise LoweringError(f"{layer.name}: a bias of {float(real.abs().max()):g} does not fit the int32 sums")
        self.parameters[layer.name] = (
            round_to_int8(weights, w).to(torch.int8).numpy(),
            integers.to(torch.int32).numpy(),
        )
        return replace(layer, shift=shift, residual_shift=shift_left)

    def _pool(self, node: fx.Node, module: nn.MaxPool2d) -> None:
        kernel, stride, padding = (_one(each) for each in (module.kernel_size, module.stride, module.padding))
        if kernel is None or kernel != stride or padding != 0 or module.dilation != 1 or module.ceil_mode:
            raise LoweringError(f"{node.name}: only pools of square windows side by side are lowered, not {module}")
        source = self._source(node)
        self._add(MaxPool(node.name, source, *self._shapes[source], kernel, kernel), node)
        self.exponents[node.name] = self.exponents[source]

    def _mean(self, node: fx.Node) -> None:
        source = self._source(node)
        channels, height, width = self._shapes[source]
        shape = tuple(self.values[node].shape)
        if shape[1] != channels or self.values[node].numel() != shape[0] * channels:
            raise LoweringError(f"{node.name}: only a mean over whole feature maps is lowered, not to {shape}")
        if height == width == 1:
            self._names[node] = source
            return
        if height != width or log2(height * width) % 1:
            raise LoweringError(f"{node.name}: a mean over {height} x {width} values is no shift; use a power of two")
        self._add(SumPool(node.name, source, channels, height, width, height, height, int(log2(height * width))), node)
        self.exponents[node.name] = self.exponents[source]


def _one(size: int | tuple[int, ...]) -> int | None:
    """A size given once, or equally for both axes; None where the axes differ."""
    sizes = {size} if isinstance(size, int) else set(size)
    return sizes.pop() if len(sizes) == 1 else None


def _square(node: fx.Node, module: nn.Conv2d) -> tuple[int, int]:
    """Stride and padding of a convolution that treats both axes alike and pads with zeros."""
    stride = _one(module.stride)
    pad = None if isinstance(module.padding, str) else _one(module.padding)
    if stride is None or pad is None or set(module.dilation) != {1} or module.padding_mode != "zeros":
        raise LoweringError(f"{node.name}: only square, undilated convolutions padded with zeros are lowered: {module}")
    return stride, pad
