"""Opacus, ghost clipping: norms from activations and output gradients, then a second backward pass."""

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _opacus
from benchmarks.peers._opacus import unavailable, versions
from benchmarks.peers._pytorch import facts

__all__ = ["PRECISION", "PRIVATE", "accumulation", "facts", "training", "unavailable", "versions"]

PRECISION = "float32"
PRIVATE = True


def training(case: Case) -> Prepared:
    """One step of DP-SGD."""
    return _opacus.training(case, "ghost")


def accumulation(case: Case) -> Prepared:
    """The clipped sum of one batch."""
    return _opacus.accumulation(case)
