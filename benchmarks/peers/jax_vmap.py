"""JAX, per-example gradients by `vmap` over `grad`, the whole step under `jit`."""

import importlib
from typing import Any

from benchmarks.cases import MAX_GRAD_NORM, Case, Prepared
from benchmarks.peers import _jax
from benchmarks.peers._jax import Parameters, unavailable, versions

__all__ = ["PRECISION", "PRIVATE", "training", "unavailable", "versions"]

PRECISION = "float32"
PRIVATE = True


def training(case: Case) -> Prepared:
    """One step of DP-SGD: gradient of each example, scaled by min(1, C / its norm), summed, noise, update."""
    jax = importlib.import_module("jax")
    numpy = importlib.import_module("jax.numpy")
    parameters, loss = _jax.network(case)
    per_example = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))

    def step(
        parameters: Parameters, key: Any, rate: Any, deviation: Any, images: Any, labels: Any
    ) -> tuple[Parameters, Any]:
        gradients = per_example(parameters, images[:, None], labels[:, None])
        norms = numpy.sqrt(sum((g**2).reshape(len(images), -1).sum(1) for g in gradients.values()))
        factors = MAX_GRAD_NORM / numpy.maximum(norms, MAX_GRAD_NORM)
        key, *keys = jax.random.split(key, len(gradients) + 1)
        noised = {
            name: numpy.tensordot(factors, g, 1) + deviation * jax.random.normal(own, g.shape[1:])
            for own, (name, g) in zip(keys, gradients.items(), strict=True)
        }
        return _jax.descended(parameters, noised, rate / case.batch_size), key

    return _jax.training(case, step, parameters, jax.random.key(0), private=True)
