"""Pictures of private accuracy: accuracy against ε beside what others report, and how the synthetic prior looks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from privlib.privacy.features import PATCH, PatchFeatures
from privlib.privacy.published import PUBLISHED
from privlib.suite import plots
from privlib.suite.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[float, tuple[float, Interval | None]]
"""ε → (mean accuracy in %, its interval)."""


def accuracy_against_epsilon(curves: Mapping[str, Curve], delta: float) -> tuple["Figure", str]:
    """Ours as lines with intervals, published results as marked points; and the alternative text."""
    figure, axes = plots.figure(7.0, 4.2)
    for (name, curve), colour in zip(curves.items(), plots.CYCLE, strict=False):
        budgets = sorted(curve)
        means = [curve[epsilon][0] for epsilon in budgets]
        axes.plot(budgets, means, "o-", color=colour, label=name)
        for epsilon, mean in zip(budgets, means, strict=True):
            interval = curve[epsilon][1]
            if interval is not None:
                axes.plot([epsilon] * 2, [interval.low, interval.high], color=colour, linewidth=1.2)
            # on the left, because what others report is told on the right
            beside: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 9, "color": colour}
            axes.annotate(f"{mean:.1f}", (epsilon, mean), (-6, 5), **beside)
    for result in PUBLISHED:
        axes.plot(result.epsilon, result.accuracy, "D", color=plots.GREY, markersize=5)
        text = f"{result.label}: {result.accuracy:g}"
        axes.annotate(text, (result.epsilon, result.accuracy), (7, -3), textcoords="offset points", fontsize=8)
    axes.plot([], [], "D", color=plots.GREY, label="published, from scratch")
    axes.set_xscale("log")
    axes.set_xlim(0.8, 20)
    axes.set_xticks([1, 2, 3, 5, 8], ["1", "2", "3", "5", "8"])
    axes.minorticks_off()
    axes.set_xlabel(f"ε (δ = {delta:g})")
    axes.set_ylabel("CIFAR-10 test accuracy, %")
    axes.legend(loc="lower right")
    ours = "; ".join(
        f"{name}: " + ", ".join(f"{curve[epsilon][0]:.1f}% at ε = {epsilon:g}" for epsilon in sorted(curve))
        for name, curve in curves.items()
    )
    others = "; ".join(f"{result.label} {result.accuracy:g}% at ε = {result.epsilon:g}" for result in PUBLISHED)
    return figure, f"Test accuracy against epsilon. Ours: {ours}. Published, from scratch: {others}."


def prior(images: torch.Tensor, features: PatchFeatures, rows: int = 6, columns: int = 12) -> tuple["Figure", str]:
    """Synthetic images beside what is learned from them: atoms of the dictionary, as patches that answer most."""
    figure, (left, right) = plots.figure(8.4, 3.0, ncols=2)
    shown = rows * columns
    left.imshow(tiled(images[:shown].permute(0, 2, 3, 1).numpy(), columns))
    left.set_title("dead-leaves images", fontsize=10)
    atoms = features.dictionary.atoms.weight[:shown] @ torch.linalg.pinv(features.patches.whiten.weight).T
    patches = atoms.view(-1, 3, PATCH, PATCH).permute(0, 2, 3, 1)
    spread = patches.flatten(1).abs().amax(1)[:, None, None, None]
    right.imshow(tiled((0.5 + 0.5 * patches / spread).numpy(), columns))
    right.set_title("atoms of the dictionary (patches of 6×6 pixels)", fontsize=10)
    for axes in (left, right):
        axes.axis("off")
    alternative = (
        f"Two grids of {shown} pictures. Left: synthetic images of overlapping coloured ellipses and rectangles. "
        "Right: patches of such images that form the dictionary, mostly edges and blobs."
    )
    return figure, alternative


def tiled(pictures: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """(N, h, w, 3) in [0, 1] → one picture, white between."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    canvas = np.ones((rows * (height + gap), columns * (width + gap), channels), np.float32)
    for index, picture in enumerate(pictures):
        y, x = divmod(index, columns)
        canvas[y * (height + gap) :, x * (width + gap) :][:height, :width] = picture
    return canvas[:-gap, :-gap]
