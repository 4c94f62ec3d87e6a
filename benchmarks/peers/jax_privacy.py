"""jax_privacy: its `clipped_grad` and its Gaussian privatizer, the whole step under `jit`."""

import importlib
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from benchmarks.cases import MAX_GRAD_NORM, Case, Prepared
from benchmarks.peers import _jax
from benchmarks.peers._jax import Parameters

__all__ = ["PRECISION", "PRIVATE", "training", "unavailable", "versions"]

PRECISION = "float32"
PRIVATE = True


def unavailable() -> str | None:
    """jax_privacy is no dependency of privlib."""
    return None if find_spec("jax_privacy") else "jax_privacy not installed (pip install jax-privacy)."


def versions() -> dict[str, str]:
    """Versions of jax_privacy, JAX and its compiler."""
    return {"jax_privacy": metadata.version("jax_privacy"), **_jax.versions()}


def training(case: Case) -> Prepared:
    """One step of DP-SGD."""
    clipping = importlib.import_module("jax_privacy.clipping")
    noise = importlib.import_module("jax_privacy.noise_addition")
    parameters, loss = _jax.network(case)
    clipped_sum = clipping.clipped_grad(loss, l2_clip_norm=MAX_GRAD_NORM, batch_argnums=(1, 2))

    def step(
        parameters: Parameters, state: Any, rate: Any, deviation: Any, images: Any, labels: Any
    ) -> tuple[Parameters, Any]:
        privatizer = noise.gaussian_privatizer(stddev=deviation, prng_key=0)
        noised, state = privatizer.update(clipped_sum(parameters, images, labels), state)
        return _jax.descended(parameters, noised, rate / case.batch_size), state

    state = noise.gaussian_privatizer(stddev=1.0, prng_key=0).init(parameters)
    return _jax.training(case, step, parameters, state, private=True)
