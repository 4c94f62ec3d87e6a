"""White-box canaries: examples whose clipped gradients are known, long, and as good as orthogonal to all others.

A linear classifier on an input with a coordinate that is zero in all ordinary examples: the gradient of that column of
the weights belongs to the canaries with this coordinate alone. With cross-entropy it is scale · (p − e_y): coordinate
and label give a canary's direction. Two canaries of one coordinate with different labels have the cosine
−1/(classes − 1) while p is flat, so with many classes inputs × classes canaries fit into inputs columns.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from privlib.privacy.errors import AuditError

Parameters = Mapping[str, np.ndarray]


class Canaries(Protocol):
    """What an audit needs: examples images float32 (m, …), labels int64 (m,), and where their gradients point.

    middle: halfway between a member's and another's expected alignment with an average of clipped gradients, over
    clipping norm / divisor; ½ where the gradients of the canaries are orthogonal.
    """

    images: np.ndarray
    labels: np.ndarray
    middle: float

    def alignments(self, before: Parameters, after: Parameters) -> np.ndarray:
        """(m,): the length of before − after along each canary's gradient at `before`."""


class SummedLinear(nn.Module):
    """logits = first(x) + second(x) + …: linear layers without bias, added up. Several of them share one gradient,
    so that what is done to one layer alone can be told apart. They begin at zero, where p is flat."""

    def __init__(self, features: int, classes: int, layers: int = 1) -> None:
        super().__init__()
        linear = [nn.Linear(features, classes, bias=False) for _ in range(layers)]
        for layer in linear:
            nn.init.zeros_(layer.weight)
        self.layers = nn.ModuleList(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.layers[0](x)
        for layer in self.layers[1:]:
            total = total + layer(x)
        return total


class OneHotCanaries:
    """inputs × classes canaries for a SummedLinear of (inputs + ordinary features): `scale` in one of the first
    `inputs` features and each of the labels. Ordinary examples must be zero there.

    scale makes the gradient, of norm scale · √layers · ‖p − e_y‖, longer than the clipping norm. Half of the
    other classes − 1 canaries of the same coordinate, each with the cosine −1/(classes − 1), move all alignments down
    by ½, so their middle is 0. Raises AuditError.
    """

    middle = 0.0

    def __init__(self, inputs: int, classes: int, ordinary: int = 0, scale: float = 4.0) -> None:
        if inputs < 1 or classes < 2 or ordinary < 0 or not scale > 0:
            raise AuditError("inputs ≥ 1, classes ≥ 2, ordinary ≥ 0 and scale > 0 are needed")
        self.scale = scale
        self._inputs = np.repeat(np.arange(inputs), classes)
        self.labels = np.tile(np.arange(classes), inputs).astype(np.int64)
        self.images = np.zeros((len(self.labels), inputs + ordinary), np.float32)
        self.images[np.arange(len(self.labels)), self._inputs] = scale

    def alignments(self, before: Parameters, after: Parameters) -> np.ndarray:
        used = int(self._inputs[-1]) + 1
        logits = self.scale * sum(np.asarray(weight[:, :used], float) for weight in before.values())
        probabilities = softmax(logits, axis=0)  # (classes, inputs)
        moved = sum(np.asarray(before[name][:, :used] - after[name][:, :used], float) for name in before)
        along = (moved * probabilities).sum(0) - moved
        squares = (probabilities**2).sum(0) - 2 * probabilities + 1
        aligned = along / np.sqrt(len(before) * squares)
        return np.asarray(aligned[self.labels, self._inputs])
