"""Opacus, grad sample mode `hooks`: per-example gradients by module hooks, einsums written for each layer."""

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _opacus
from benchmarks.peers._opacus import unavailable, versions

__all__ = ["PRECISION", "PRIVATE", "training", "unavailable", "versions"]

PRECISION = "float32"
PRIVATE = True


def training(case: Case) -> Prepared:
    """One step of DP-SGD."""
    return _opacus.training(case, "hooks")
