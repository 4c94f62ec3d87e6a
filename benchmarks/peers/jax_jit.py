"""JAX, the whole step under `jit`."""

import importlib
from typing import Any

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _jax
from benchmarks.peers._jax import Parameters, unavailable, versions

__all__ = ["PRECISION", "training", "unavailable", "versions"]

PRECISION = "float32"


def training(case: Case) -> Prepared:
    """One step of SGD."""
    parameters, loss = _jax.network(case)
    gradient = importlib.import_module("jax").grad(loss)

    def step(parameters: Parameters, state: Any, rate: Any, _: Any, images: Any, labels: Any) -> tuple[Parameters, Any]:
        return _jax.descended(parameters, gradient(parameters, images, labels), rate), state

    return _jax.training(case, step, parameters, ())
