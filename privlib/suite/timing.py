"""Timing side by side inside one process, for notebooks; benchmarks that compare peers use a process for each."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Runner = Callable[[NDArray[Any]], NDArray[Any]]

# Idle threads of a pool spin for a moment before they sleep; the next one's turn starts after that.
_SETTLE_SECONDS = 0.05


def interleave(
    candidates: Mapping[str, Callable[[], object]], rounds: int, turn_seconds: float = 0.1
) -> dict[str, list[float]]:
    """Seconds of one call of each candidate, measured in turns A B C A B C …: one mean a round for each.

    Each candidate is called twice before anything counts, and once at the start of each turn unless one call lasts
    longer than a turn has to. A turn repeats the call until it has lasted about `turn_seconds`.
    """
    calls = {}
    for name, call in candidates.items():
        call()
        calls[name] = round(turn_seconds / max(_seconds(call, 1), 1e-9))
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            time.sleep(_SETTLE_SECONDS)
            if calls[name]:
                call()
            measured[name].append(_seconds(call, max(1, calls[name])))
    return measured


def in_batches(run: Runner, images: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """`run` over all images (N, ...), `batch_size` at a time (the last may be smaller); what it gives, (N, ...)."""
    return np.concatenate([run(images[begin : begin + batch_size]) for begin in range(0, len(images), batch_size)])


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """L2 norm of the difference over the L2 norm of `expected`, over the whole array, in float64."""
    difference = found.astype(np.float64) - expected.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def _seconds(call: Callable[[], object], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times
