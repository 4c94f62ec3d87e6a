"""Random allocation's privacy losses, from PLD-accounting (Feldman & Shenfeld 2026, arXiv 2602.17284).

Its geometric method is used: an upper bound whose excess falls with the grid's spacing (ε too large by about
0.4 · epochs · budget). Its FFT method is faster and far looser (σ = 0.8, 2 of 100 steps, 10 epochs, δ = 1e-5: 28.5,
where the geometric one tends to 6.0 and Poisson sampling costs 6.42), so it is not used.
"""

import warnings
from functools import lru_cache
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # numba is not installed; all it changes is speed
    from PLD_accounting import AllocationSchemeConfig, PrivacyParams, gaussian_allocation_pld

_BUDGET = 0.2  # of rounding, shared out over the epochs
_COARSEST = 0.02
_POINTS = 20_000  # most points of the grid of one step: up to a minute of work
_TAIL = 1e-12  # probability a distribution's ends give up to infinite loss, an epoch


def loss_distribution(noise_multiplier: float, steps_per_epoch: int, selections: int, epochs: int) -> Any:
    """dp-accounting's loss distribution of that many epochs under add_or_remove_one."""
    spacing = min(_COARSEST, _BUDGET / 2 ** (epochs - 1).bit_length())  # few different ones, so that the cache serves
    return _one_epoch(noise_multiplier, steps_per_epoch, selections, spacing).self_compose(epochs)


@lru_cache(maxsize=64)
def _one_epoch(noise_multiplier: float, steps_per_epoch: int, selections: int, spacing: float) -> Any:
    parameters = PrivacyParams(sigma=noise_multiplier, num_steps=steps_per_epoch, num_selected=selections, num_epochs=1)
    config = AllocationSchemeConfig(loss_discretization=spacing, tail_truncation=_TAIL, max_grid_mult=_POINTS)
    return gaussian_allocation_pld(params=parameters, config=config)
