"""What a reader is shown of differential privacy: one example's pull on real releases, accountants side by side, and
what each way of drawing batches costs in noise."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from privlib.data import Cifar10, preprocess
from privlib.privacy.accounting import Accountant, accounted, calibrate_event
from privlib.privacy.evaluation import accuracy_on
from privlib.suite import plots, records
from privlib.suite.stats import Interval, proportion_interval
from privlib.trusted import renyi
from privlib.trusted.events import Event
from privlib.trusted.training import TrainingStep

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Releases:
    """Noisy sums along the direction in which one example pulls: `with_it` and `without_it` (times,), 0 where the sum
    without it lies. distance: how far the example moves the sum; bounds: what clipping allows, with float32 rounding
    between two runs of the same batch."""

    with_it: np.ndarray
    without_it: np.ndarray
    distance: float
    bounds: Interval


def releases(
    step: TrainingStep, images: np.ndarray, labels: np.ndarray, left_out: int, times: int, learning_rate: float = 1.0
) -> Releases:
    """Release `times` updates from the same parameters with all examples, and as many without number `left_out`.

    images, labels: one physical batch; step: compiled with DPSGD, no momentum. The update is turned back into the noisy
    sum: −(change) · expected batch size / learning rate.
    """
    assert step.privacy is not None, "a plain step releases no noisy sum"
    mask = np.ones(len(images), bool)
    mask[left_out] = False
    whole, part = (_flat(step.clipped_gradient_sum(images, labels, m)) for m in (None, mask))
    distance = float(np.linalg.norm(whole - part))
    direction = (whole - part) / distance
    start, scale = step.parameters(), float(step.privacy["expected_batch_size"]) / learning_rate
    origin, centre = float(_flat(start) @ direction), float(part @ direction)

    def noisy(m: np.ndarray | None) -> float:
        step.load_parameters(start)
        step.step(images, labels, m, learning_rate)
        return scale * (origin - float(_flat(step.parameters()) @ direction)) - centre

    found = [[noisy(m) for _ in range(times)] for m in (None, mask)]
    step.load_parameters(start)
    clip = float(step.privacy["max_grad_norm"])
    return Releases(np.array(found[0]), np.array(found[1]), distance, Interval(0.0, clip, 1.0, "clipping norm"))


def _flat(named: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([named[name].ravel().astype("float64") for name in sorted(named)])


def neighbours(found: Releases, sigma: float, delta: float) -> "tuple[Figure, str]":
    """Histograms of the releases with and without the example, over the Gaussians that the noise should make of them;
    beside them, for the same two, which pairs (ε, δ) hold."""
    figure, (left, right) = plots.figure(8.8, 3.4, ncols=2)
    reach = 3.6 * sigma
    grid = np.linspace(-reach, found.distance + reach, 300)
    bins = np.linspace(-reach, found.distance + reach, 41).tolist()
    for values, mean, colour, name in (
        (found.without_it, 0.0, plots.GREY, "without the example"),
        (found.with_it, found.distance, plots.BLUE, "with it"),
    ):
        left.hist(values, bins, density=True, color=colour, alpha=0.35)
        left.plot(grid, [NormalDist(mean, sigma).pdf(x) for x in grid], color=colour, label=name)
    left.set_xlabel("released sum along the example's gradient")
    left.set_yticks([])
    left.legend(loc="upper left", fontsize=9)
    left.set_ylim(0, 1.35 * NormalDist(0, sigma).pdf(0))
    budgets = np.linspace(0, 6, 121)
    right.plot(budgets, [gaussian_delta(value, found.distance / sigma) for value in budgets], color=plots.BLUE)
    right.axhline(delta, color=plots.GREY, linestyle="--")
    right.text(0.1, delta * 1.4, f"δ = {delta:g}", fontsize=9, color=plots.GREY)
    right.set(yscale="log", ylim=(1e-8, 1), xlabel="ε", ylabel="δ")
    moved = found.distance / sigma
    return figure, (
        f"Left: histograms of {len(found.with_it)} releases each, with and without one example; they overlap, "
        f"{moved:.2f} standard deviations apart, and follow two normal curves. Right: the smallest δ for each ε from 0 "
        f"to 6, falling from {gaussian_delta(0, moved):.2f}."
    )


def gaussian_delta(epsilon: float, shift: float) -> float:
    """δ(ε) of two unit Gaussians `shift` apart (Balle & Wang 2018, arXiv 1805.06530, theorem 8)."""
    normal = NormalDist()
    return normal.cdf(shift / 2 - epsilon / shift) - math.exp(epsilon) * normal.cdf(-shift / 2 - epsilon / shift)


def accountants(
    noise_multiplier: float, sample_rate: float, steps: Sequence[int], delta: float
) -> dict[str, list[float]]:
    """ε at δ after each number of Poisson-sampled steps: by "pld", "rdp", "enclave" (`privlib.trusted.renyi`) and
    "added_up", each step's own ε at δ / steps, summed."""
    found: dict[str, list[float]] = {"pld": [], "rdp": [], "enclave": [], "added_up": []}
    for count in steps:
        event = Event("poisson", noise_multiplier, count, sample_rate=sample_rate)
        for name in ("pld", "rdp"):
            spent = Accountant(name).compose(noise_multiplier, sample_rate, count)
            found[name].append(float(spent.epsilon(delta)))
        found["enclave"].append(renyi.epsilon([event], delta))
        found["added_up"].append(count * float(accounted([event.times(1)], delta / count)))
    return found


def accumulation(epochs: Sequence[int], curves: Mapping[str, Sequence[float]], delta: float) -> "tuple[Figure, str]":
    """ε over epochs, a line an accountant."""
    names = {
        "pld": "privacy loss distributions", "rdp": "Rényi DP", "enclave": "the enclave's own bound",
        "added_up": "each step's ε, added up",
    }  # fmt: skip
    figure, axes = plots.figure(7.0, 3.6)
    for (name, values), colour, style in zip(curves.items(), plots.CYCLE, ("-", "-", "--", ":"), strict=False):
        axes.plot(epochs, values, style, marker="o", markersize=4, color=colour, label=names.get(name, name))
    axes.set(xscale="log", yscale="log", xlabel="epochs", ylabel=f"ε at δ = {delta:g}")
    axes.set_xticks(list(epochs), [str(count) for count in epochs])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(loc="upper left", fontsize=9)
    last = "; ".join(f"{names.get(name, name)} {values[-1]:.2f}" for name, values in curves.items())
    return figure, f"Line chart of epsilon against epochs, {epochs[0]} to {epochs[-1]}. At the end: {last}."


@dataclass(frozen=True)
class Sampling:
    """One epoch of steps at one level of protection.

    poisson, shuffled: the noise multipliers that reach it, under Poisson sampling for adding or removing one example,
    and for shuffled batches for replacing one; allocation_epsilon: what Poisson's noise gives under random allocation;
    allocation: the multiplier that random allocation needs, or None where that was not asked for.
    """

    poisson: float
    shuffled: float
    allocation_epsilon: float
    allocation: float | None


def sampling(target: float, delta: float, steps_per_epoch: int, *, saved: bool = False) -> Sampling:
    """For ε = target, one epoch in which each example is used once (on average, where Poisson draws). saved: also
    calibrate random allocation, some minutes of work."""
    poisson = Event("poisson", 1.0, steps_per_epoch, sample_rate=1 / steps_per_epoch)
    shuffled = Event("shuffled", 1.0, steps_per_epoch, "replace_one", steps_per_epoch=steps_per_epoch)
    noise, other = (calibrate_event(target, delta, event) for event in (poisson, shuffled))
    allocation = Event("random_allocation", noise, steps_per_epoch, steps_per_epoch=steps_per_epoch, selections=1)
    spent = float(accounted([allocation], delta))
    return Sampling(noise, other, spent, calibrate_event(target, delta, allocation, tolerance=0.005) if saved else None)


@dataclass(frozen=True)
class Accuracy:
    """Percent, and its interval for other test images."""

    value: float
    interval: Interval


def accuracy(model: "torch.nn.Module", parameters: Mapping[str, np.ndarray], test: Cifar10) -> Accuracy:
    """Of `model` with `parameters`, on all images of `test`."""
    found = accuracy_on(model, preprocess(np.array(test.images)), test.labels)(parameters)
    interval = proportion_interval(round(found * len(test.images)), len(test.images))
    return Accuracy(100 * found, Interval(100 * interval.low, 100 * interval.high, interval.level, interval.method))


def recorded_accuracy(results: Path, row: str) -> tuple[dict[float, tuple[float, Interval | None]], str]:
    """Test accuracy of `row` by ε from the newest record of `privlib bench utility` under `results`, `full` before
    `quick`; and one line that says which record that is. Empty where there is none."""
    found = [
        run for run in records.find(results) if run.data["benchmark"] == "utility" and run.data["status"] == "ok"
        and run.data["profile"] in ("quick", "full")
    ]  # fmt: skip
    curve: dict[float, tuple[float, Interval | None]] = {}
    if not found:
        return curve, "no record of `privlib bench utility` yet"
    newest = max(found, key=lambda run: (run.data["profile"] == "full", run.data["start"]))
    for name, metric in newest.metrics().items():
        if match := re.fullmatch(rf"epsilon_([\d.]+)/{row}/test_accuracy", name):
            bounds = metric["interval"]
            interval = Interval(bounds["low"], bounds["high"], bounds["level"], bounds["method"]) if bounds else None
            curve[float(match[1])] = (metric["value"], interval)
    return curve, f"measured by `privlib bench utility`, profile {newest.data['profile']}, {newest.data['start'][:10]}"
