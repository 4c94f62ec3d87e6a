"""Cross-layer equalisation before quantisation: the same network with weights that one scale a tensor fits better.

A ReLU, a maximum and a mean commute with a positive factor, so a channel may be divided by s where it is made and
multiplied by s where it is read. With s = sqrt(r1 / r2), r1 and r2 the largest weights of the channel in either layer,
both become sqrt(r1 r2) (Nagel, van Baalen, Blankevoort, Welling: "Data-Free Quantization Through Weight Equalization
and Bias Correction", ICCV 2019, 4.1). Depthwise layers need it: after BatchNorm is folded their channels differ by
orders of magnitude. Logits stay as they were, up to rounding.
"""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

ROUNDS = 20
_LINEAR = (nn.Conv2d, nn.Linear)
_PASSES = (nn.Identity, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout)
_FUNCTIONS = ("mean", "flatten", "relu", "relu_", torch.flatten, torch.relu, nn.functional.relu)


def equalise(graph: fx.GraphModule) -> None:
    """Scale, in place, each pair of layers with nothing between them but what commutes with positive factors. A layer
    that is called twice, or shares a parameter, stays as it is."""
    with torch.no_grad():
        pairs = list(_pairs(graph))
        for _ in range(ROUNDS):  # a layer in the middle belongs to two pairs
            for first, second in pairs:
                _scale(first, second)


def _pairs(graph: fx.GraphModule) -> Iterator[tuple[nn.Module, nn.Module]]:
    modules = dict(graph.named_modules())
    called = [modules[str(node.target)] for node in graph.graph.nodes if node.op == "call_module"]
    uses = Counter(id(each) for module in called for each in module.parameters())
    single = {id(module) for module in called if all(uses[id(each)] == 1 for each in module.parameters())}
    for node in graph.graph.nodes:
        first = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(first, _LINEAR):
            continue
        users = list(node.users)
        while len(users) == 1 and _passes(users[0], modules):
            users = list(users[0].users)
        second = modules.get(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
        if not isinstance(second, _LINEAR) or len(_reading(second)) != len(first.weight):
            continue
        if {id(first), id(second)} <= single:
            yield first, second


def _passes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return isinstance(modules.get(str(node.target)), _PASSES) if node.op == "call_module" else node.target in _FUNCTIONS


def _reading(layer: nn.Module) -> Tensor:
    """A layer's weights by input channel; the last of several axes may be whole kernels."""
    assert isinstance(layer, _LINEAR)
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    return layer.weight if depthwise else layer.weight.transpose(0, 1)


def _scale(first: nn.Module, second: nn.Module) -> None:
    assert isinstance(first, _LINEAR) and isinstance(second, _LINEAR)
    made, read = first.weight.flatten(1).abs().amax(1), _reading(second).flatten(1).abs().amax(1)
    factor = torch.where((made > 0) & (read > 0), (made / read).sqrt(), torch.ones_like(made))
    first.weight /= factor.reshape(-1, *[1] * (first.weight.ndim - 1))
    if first.bias is not None:
        first.bias /= factor
    reading = _reading(second)
    reading *= factor.reshape(-1, *[1] * (reading.ndim - 1))
