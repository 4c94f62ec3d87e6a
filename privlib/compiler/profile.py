"""Where the time of a training step goes: seconds of every kernel, by the virtual machine's instrument."""

import statistics
import time
from typing import Any

import numpy as np

from privlib.compiler.training import CompiledTraining
from privlib.trusted import artifact as format
from privlib.trusted.runtime import load_code, virtual_machine

FORWARD, BACKWARD = "forward pass", "backward pass"
NORMS, SUMS, KEPT = "per-example norms", "clipped sums", "adding up"
PARTS = (FORWARD, BACKWARD, NORMS, SUMS, KEPT)
"""The parts that `parts` tells apart, in the order in which a step begins them."""

_NORM_KERNELS = ("weight_norm", "row_squares", "elementwise_multiply", "clip")
_SUM_KERNELS = ("weight_sum", "kept_sum", "factor_sum", "scale_rows")


def kernel_calls(
    step: CompiledTraining, images: np.ndarray, labels: np.ndarray, rounds: int = 5
) -> list[tuple[str, float]]:
    """Every kernel that one `accumulate` of a physical batch calls, in order: (name, seconds, the median of `rounds`).

    images float32 (B, *input_shape), labels int64 (B,) with B = step.batch_size. The step's parameters and sums stay
    as they are. The batch runs once before anything is timed. What the virtual machine does itself (allocations,
    views) is not in the list.
    """
    machine = virtual_machine(load_code(step._artifact.path / format.LIBRARY, step.level))
    calls: list[tuple[str, float]] = []
    begun: list[float] = []

    def instrument(_function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
        if before:
            begun.append(time.perf_counter())
        else:
            seconds = time.perf_counter() - begun.pop()
            if not name.startswith("vm."):
                calls.append((name, seconds))
        return 0

    machine.set_instrument(instrument)
    original, step._accumulate = step._accumulate, machine["main"]
    runs = []
    try:
        for _ in range(rounds + 1):
            calls.clear()
            step.clipped_gradient_sum(images, labels)
            runs.append(list(calls))
    finally:
        step._accumulate = original
    return [(same[0][0], statistics.median(seconds for _, seconds in same)) for same in zip(*runs[1:], strict=True)]


def kernel_times(step: CompiledTraining, images: np.ndarray, labels: np.ndarray, rounds: int = 5) -> dict[str, float]:
    """Seconds by kernel name in one `accumulate`, the calls of a kernel added up; see `kernel_calls`."""
    times: dict[str, float] = {}
    for name, seconds in kernel_calls(step, images, labels, rounds):
        times[name] = times.get(name, 0.0) + seconds
    return times


def parts(calls: list[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each of PARTS, from the calls in order.

    Up to the loss is the forward pass; from the first sum on everything serves the sums, until they are added to those
    kept between calls. Between, a kernel belongs to the norms by its name and else to the backward pass.
    """
    seconds_of = dict.fromkeys(PARTS, 0.0)
    now = FORWARD
    for name, seconds in calls:
        if now == BACKWARD and name.startswith(_SUM_KERNELS):
            now = SUMS
        if name.startswith("fold"):
            now = KEPT
        seconds_of[NORMS if now == BACKWARD and name.startswith(_NORM_KERNELS) else now] += seconds
        if name.startswith("cross_entropy"):
            now = BACKWARD
    return seconds_of


def update_seconds(step: CompiledTraining, images: np.ndarray, labels: np.ndarray, rounds: int = 5) -> float:
    """Seconds of one `update` after an `accumulate`: the median of `rounds`. The learning rate is zero, so parameters
    without weight decay and momentum stay as they are; sums begin anew."""
    found = []
    for _ in range(rounds + 1):
        step.accumulate(images, labels)
        begin = time.perf_counter()
        step.update(0.0)
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])
