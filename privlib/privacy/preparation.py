"""From features to the rows of a private linear head: the same map for every image, fitted to synthetic ones.

    v = (√f − m) ÷ (s + 0.01·mean s);  v ÷= ‖v‖;  v −= mean;  the leading principal components are scaled down to the
    strength of the next one;  v ÷= ‖v‖;  append 0.1

Each row depends on its own image alone, and every statistic (m, s, mean, components) is one of synthetic images, so
that nothing here costs privacy. The norm of a row is √1.01, which bounds each example's gradient before clipping.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

COMPONENTS = 200
CONSTANT = 0.1
"""The constant feature, which stands for a bias."""
CONSTANT_COLUMNS = 32
"""It is spread over that many columns, 0.1/√32 each: the same function, gradient norm and noise as in one, and a row
length that vectors and blocks divide."""


class Preparation(nn.Module):
    """(B, D) of non-negative features → (B, D + 32)."""

    def __init__(self, mean: Tensor, scale: Tensor, centre: Tensor, components: Tensor, damping: Tensor) -> None:
        """mean, scale, centre (D,); components (D, R) orthonormal; damping (R,): factors of the components."""
        super().__init__()
        size, count = components.shape
        self.mean, self.scale, self.centre = (nn.Parameter(each) for each in (mean, scale, centre))
        self.into = nn.Linear(size, count, bias=False)
        self.back = nn.Linear(count, size, bias=False)
        with torch.no_grad():
            self.into.weight.copy_(components.T)
            self.back.weight.copy_(components * (1 - damping))
        self.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        v = _unit((features.sqrt() - self.mean) * self.scale) - self.centre
        v = _unit(v - self.back(self.into(v)))
        return functional.pad(v, (0, CONSTANT_COLUMNS), value=CONSTANT / math.sqrt(CONSTANT_COLUMNS))


def fit_preparation(features: Tensor, seed: int, components: int = COMPONENTS) -> Preparation:
    """From the features (N, D) of synthetic images; principal components by a randomised range finder.

    At most D/4 components are damped: where there are few features, most of them have to stay as they are.
    """
    components = min(components, features.shape[1] // 4)
    roots = features.sqrt()
    mean, deviation = roots.mean(0), roots.std(0)
    scale = 1 / (deviation + 0.01 * deviation.mean())
    rows = _unit((roots - mean) * scale)
    centre = rows.mean(0)
    rows = rows - centre
    probe = torch.randn(rows.shape[1], components + 50, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(rows.T @ (rows @ probe))[0]
    basis = torch.linalg.qr(rows.T @ (rows @ basis))[0]
    _, strengths, directions = torch.linalg.svd(rows @ basis, full_matrices=False)
    leading = basis @ directions.T[:, :components]
    return Preparation(mean, scale, centre, leading, strengths[components] / strengths[:components])


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(1, keepdim=True).sqrt()
