"""Learning rates as functions of the step number alone: nothing here looks at the data."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""The learning rate of the update after `step` earlier ones (0 at first)."""


def constant(rate: float) -> Schedule:
    """The same rate always."""
    return lambda step: rate


def cosine(peak: float, steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Up in a straight line to `peak` over the first `warmup` updates, then down half a cosine to `floor` after `steps`
    (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2

    return rate
