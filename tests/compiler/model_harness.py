"""What the tests of whole models share: building them, running them in PyTorch, comparing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Formula(nn.Module):
    """A function of the modules `m`, the parameters `p` and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], *modules: nn.Module, parameter: Tensor | None = None):
        super().__init__()
        self.function, self.m = function, nn.ModuleList(modules)
        if parameter is not None:
            self.p = nn.Parameter(parameter)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and biases that are not what they start with, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2, generator=generator)
        if (
            isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm | nn.BatchNorm1d)
            and module.weight is not None
        ):
            nn.init.normal_(module.weight, 1, 0.3, generator=generator)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.normal_(bias, 0, 0.3, generator=generator)
    return model


def eager(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Logits of PyTorch in evaluation mode and float32; the model's flags are restored."""
    flags = {module: module.training for module in model.modules()}
    with torch.no_grad():
        result = model.eval()(torch.from_numpy(x)).numpy()
    for module, training in flags.items():
        module.training = training
    return result


def batch(size: int, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, *shape)).astype(np.float32)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def conv(inputs: int = 3, outputs: int = 8, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def depthwise() -> nn.Conv2d:
    return conv(8, 8, groups=8)
