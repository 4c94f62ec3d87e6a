"""Small graphs chosen for what an epilogue, a layout or an alias can get wrong, and random networks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from privlib.compiler import (
    compile_inference,
)
from tests.compiler.model_harness import Formula, batch, conv, depthwise, eager, randomize


def gate(s: Any, x: Tensor) -> Tensor:
    y = s.m[0](x)
    return y * torch.sigmoid(s.m[1](y.mean((2, 3), keepdim=True)))


# What an epilogue, a layout or an alias can get wrong: (model, input shape).
GRAPHS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "square root of a mean of squares": (
        lambda: Formula(lambda s, x: s.m[0](x) / (s.m[0](x).square().mean(1, keepdim=True) + 0.1).sqrt(), conv()),
        (3, 4, 5),
    ),
    "length of a row": (lambda: Formula(lambda s, x: x / (x.square().sum(-1, keepdim=True).sqrt() + 0.1)), (5, 6)),
    "sum that drops its axis": (lambda: Formula(lambda s, x: s.m[0](x).sum(1), conv()), (3, 4, 4)),
    "a number divided, negated, from the left": (lambda: Formula(lambda s, x: -(2 * x) / 3 + (1 - x)), (6,)),
    "a row minus a matrix": (lambda: Formula(lambda s, x: x.mean(-1, keepdim=True) - x), (5, 6)),
    "adaptive pooling to uneven cells": (lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d((2, 3))), (3, 7, 7)),
    "channel-last and back": (
        lambda: Formula(
            lambda s, x: s.m[1](s.m[2](s.m[0](x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
            conv(),
            nn.Linear(8, 5),
            nn.LayerNorm(8),
        ),
        (3, 4, 5),
    ),
    "convolutions side by side": (
        lambda: Formula(lambda s, x: torch.cat([s.m[0](x), s.m[1](x), s.m[0](x)], 1), conv(), conv(3, 5)),
        (3, 4, 4),
    ),
    "two-sided rectification": (
        lambda: Formula(lambda s, x: torch.cat([F.relu(x - 0.2), F.relu(-x - 0.2)], -1)),
        (5, 6),
    ),
    "two-sided, other thresholds": (
        lambda: Formula(lambda s, x: torch.cat([F.relu(x - 0.2), F.relu(-x - 0.3)], -1)),
        (5, 6),
    ),
    "two-sided, wrong way round": (
        lambda: Formula(lambda s, x: torch.cat([F.relu(-x - 0.2), F.relu(x - 0.2)], -1)),
        (5, 6),
    ),
    "positions, two-sided, averaged": (
        lambda: Formula(
            lambda s, x: F.adaptive_avg_pool2d(
                (lambda z: torch.cat([F.relu(z - 0.2), F.relu(-z - 0.2)], -1))(
                    s.m[1](s.m[2](s.m[0](x).permute(0, 2, 3, 1)))
                ).permute(0, 3, 1, 2),
                2,
            ),
            conv(),
            nn.Linear(8, 37),
            nn.LayerNorm(8),
        ),
        (3, 5, 7),
    ),
    "positions, two-sided, used twice": (
        lambda: Formula(
            lambda s, x: (
                lambda z: (
                    F.adaptive_avg_pool2d(torch.cat([F.relu(z - 0.2), F.relu(-z - 0.2)], 1), 2)
                    + torch.cat([z, z], 1).mean((2, 3), keepdim=True)
                )
            )(s.m[0](x)),
            nn.Conv2d(3, 8, 1),
        ),
        (3, 5, 7),
    ),
    "mirrored": (lambda: Formula(lambda s, x: s.m[0](x.flip(-1)) + s.m[0](x).flip(3), conv()), (3, 4, 5)),
    "layer norm without parameters": (
        lambda: nn.Sequential(nn.Linear(6, 37), nn.LayerNorm(37, elementwise_affine=False), nn.ReLU()),
        (5, 6),
    ),
    "a head over many features": (lambda: nn.Sequential(nn.Linear(1100, 10), nn.ReLU()), (1100,)),
    "convolution as output": (lambda: conv(), (3, 5, 6)),
    "no parameters": (lambda: nn.ReLU(), (6,)),
    "identity": (lambda: nn.Identity(), (3, 4, 4)),
    "one pixel": (lambda: nn.Conv2d(3, 5, 1), (3, 1, 1)),
    "scalar from the right": (lambda: Formula(lambda s, x: s.m[0](x) + 1.5, conv()), (3, 4, 4)),
    "scalar minus": (lambda: Formula(lambda s, x: 1 - s.m[0](x), conv()), (3, 4, 4)),
    "divided by a scalar": (lambda: Formula(lambda s, x: s.m[0](x) / 3, conv()), (3, 4, 4)),
    "channels minus": (
        lambda: Formula(lambda s, x: s.p.view(1, -1, 1, 1) - s.m[0](x), conv(), parameter=torch.randn(8)),
        (3, 4, 4),
    ),
    "minus channels": (
        lambda: Formula(lambda s, x: s.m[0](x) - s.p.view(-1, 1, 1), conv(), parameter=torch.randn(8)),
        (3, 4, 4),
    ),
    "plus a row": (lambda: Formula(lambda s, x: s.m[0](x) + s.p, conv(), parameter=torch.randn(4)), (3, 4, 4)),
    "plus an image": (lambda: Formula(lambda s, x: s.m[0](x) + s.p, conv(), parameter=torch.randn(8, 4, 4)), (3, 4, 4)),
    "one channel plus many": (
        lambda: Formula(lambda s, x: s.m[0](x) + s.p.view(1, -1, 1, 1), conv(3, 1), parameter=torch.randn(8)),
        (3, 4, 4),
    ),
    "squeeze and excitation": (lambda: Formula(gate, conv(), nn.Conv2d(8, 8, 1)), (3, 4, 4)),
    "product with a matrix": (lambda: Formula(lambda s, x: x @ s.p, parameter=torch.randn(6, 7)), (6,)),
    "product with an unturned matrix": (
        lambda: Formula(lambda s, x: x @ s.p.permute(0, 1), parameter=torch.randn(6, 6)),
        (6,),
    ),
    "tied weights": (
        lambda: Formula(lambda s, x: F.linear(F.relu(F.linear(x, s.p)), s.p), parameter=torch.randn(6, 6)),
        (6,),
    ),
    "linear over positions": (lambda: nn.Sequential(conv(), nn.Linear(6, 7)), (3, 5, 6)),
    "layer norm over positions": (lambda: nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.GELU()), (5, 6)),
    "batch norm of vectors": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()), (6,)),
    "batch norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), conv()), (3, 4, 4)),
    "batch norm twice": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU()), (3, 4, 4)),
    "batch norm after ReLU": (lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(8)), (3, 4, 4)),
    "batch norm after a sum": (
        lambda: Formula(lambda s, x: s.m[1](s.m[0](x) + x), conv(8, 8), nn.BatchNorm2d(8)),
        (8, 4, 4),
    ),
    "batch norm without parameters": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, affine=False)), (3, 4, 4)),
    "group norm without parameters": (lambda: nn.Sequential(conv(), nn.GroupNorm(4, 8, affine=False)), (3, 4, 4)),
    "group norm, sum, ReLU": (
        lambda: Formula(lambda s, x: F.relu(s.m[1](s.m[0](x)) + x), conv(8, 8), nn.GroupNorm(2, 8)),
        (8, 4, 4),
    ),
    "ReLU twice": (lambda: nn.Sequential(conv(), nn.ReLU(), nn.ReLU6()), (3, 4, 4)),
    "ReLU in place": (lambda: nn.Sequential(conv(), nn.ReLU(inplace=True)), (3, 4, 4)),
    "sum and ReLU in place": (lambda: Formula(lambda s, x: s.m[0](x).add_(1).relu_(), conv()), (3, 4, 4)),
    "dropout": (lambda: nn.Sequential(conv(), nn.Dropout(0.5)), (3, 4, 4)),
    "used before and after ReLU": (
        lambda: Formula(lambda s, x: (lambda y: F.relu(y) + y)(s.m[0](x)), conv()),
        (3, 4, 4),
    ),
    "twice itself": (lambda: Formula(lambda s, x: (lambda y: y + y)(s.m[0](x)), conv()), (3, 4, 4)),
    "three convolutions summed": (
        lambda: Formula(lambda s, x: s.m[1](x) + s.m[0](x) + s.m[2](x), conv(), conv(), conv()),
        (3, 4, 4),
    ),
    "one convolution twice": (lambda: Formula(lambda s, x: s.m[0](F.relu(s.m[0](x))), conv(3, 3)), (3, 4, 4)),
    "concatenation": (lambda: Formula(lambda s, x: torch.cat([s.m[0](x), s.m[1](x)], 1), conv(), conv()), (3, 4, 4)),
    "slice of channels": (lambda: Formula(lambda s, x: s.m[0](x)[:, 2:6], conv()), (3, 4, 4)),
    "mean over channels": (lambda: Formula(lambda s, x: s.m[0](x).mean(1), conv()), (3, 4, 4)),
    "mean over space, from the end": (lambda: Formula(lambda s, x: s.m[0](x).mean((-1, -2)), conv()), (3, 4, 4)),
    "separable": (lambda: nn.Sequential(depthwise(), nn.ReLU6(), nn.Conv2d(8, 9, 1), nn.ReLU()), (8, 5, 7)),
    "separable with residual": (
        lambda: Formula(lambda s, x: s.m[1](s.m[0](x)) + x, depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "depthwise used twice": (
        lambda: Formula(lambda s, x: (lambda d: s.m[1](d) + d)(s.m[0](x)), depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "depthwise as the residual": (
        lambda: Formula(lambda s, x: s.m[1](x) + s.m[0](x), depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "depthwise plus residual, then 1×1": (
        lambda: Formula(lambda s, x: s.m[1](s.m[0](x) + x), depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "reshaped to an image": (lambda: Formula(lambda s, x: s.m[0](x.view(-1, 3, 4, 4)), conv()), (48,)),
    "ceil_mode that changes nothing": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2, ceil_mode=True)), (3, 4, 4)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    torch.manual_seed(5)
    make, shape = GRAPHS[name]
    model = randomize(make())
    x = batch(5, shape)
    found = compile_inference(model, 3, shape).run(x)
    np.testing.assert_allclose(found, eager(model, x), rtol=1e-4, atol=2e-5)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int]]:
    """A chain of convolutions, norms, activations, sums and pools, then a linear layer."""
    channels, side, other = draw(st.integers(1, 9)), draw(st.integers(6, 13)), draw(st.integers(6, 13))
    shape = (channels, side, other)
    layers: list[nn.Module] = []
    norms: list[Callable[[int], nn.Module]] = [nn.Identity, nn.BatchNorm2d, lambda c: nn.GroupNorm(1, c)]
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, 20 // groups + 1))
        size, stride = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 2))
        layers.append(
            nn.Conv2d(channels, outputs, size, stride, padding=size // 2, groups=groups, bias=draw(st.booleans()))
        )
        channels = outputs
        layers.append(draw(st.sampled_from(norms))(channels))
        layers.append(draw(st.sampled_from([nn.Identity, nn.ReLU, nn.ReLU6, nn.Tanh, nn.GELU]))())
        layers.append(
            draw(st.sampled_from([nn.Identity(), Residual(channels), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)]))
        )
    head = draw(st.sampled_from([nn.AdaptiveAvgPool2d(1), nn.Identity()]))
    model = nn.Sequential(*layers, head, nn.Flatten(), nn.LazyLinear(draw(st.integers(1, 11))))
    model.eval()(torch.zeros(1, *shape))
    return randomize(model), shape


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x))


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(1, 5))
def test_random_networks(network: tuple[nn.Module, tuple[int, int, int]], size: int) -> None:
    model, shape = network
    x = batch(size + 1, shape)
    np.testing.assert_allclose(compile_inference(model, size, shape).run(x), eager(model, x), rtol=1e-3, atol=1e-4)
