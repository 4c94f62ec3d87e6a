"""Pictures of private accuracy carry their numbers in words."""

import matplotlib.pyplot as plt
import numpy as np

from privlib.privacy import pictures
from privlib.privacy.features import PatchFeatures
from privlib.privacy.published import PUBLISHED
from privlib.privacy.synthetic import dead_leaves
from privlib.suite.stats import Interval


def test_accuracy_is_told_in_words_with_the_published_results() -> None:
    curve = {1.0: (71.25, Interval(70.9, 71.6, 0.95, "")), 8.0: (77.0, None)}
    figure, text = pictures.accuracy_against_epsilon({"ours": curve}, 1e-5)
    assert "ours: 71.2% at ε = 1, 77.0% at ε = 8" in text
    assert all(f"{result.label} {result.accuracy:g}%" in text for result in PUBLISHED)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "ε (δ = 1e-05)" and axes.get_ylabel()
    marked = [line for line in axes.lines if line.get_marker() == "D" and np.size(line.get_xdata())]
    assert len(marked) == len(PUBLISHED)
    plt.close(figure)


def test_published_results_name_their_source() -> None:
    assert all(result.source and 0 < result.accuracy < 100 for result in PUBLISHED)
    assert len({result.name for result in PUBLISHED}) == len(PUBLISHED)


def test_the_prior_is_shown_beside_what_is_learned_from_it() -> None:
    images = dead_leaves(100, 1)
    figure, text = pictures.prior(images, PatchFeatures.fit(images, 40, 0.2, 1), rows=2, columns=4)
    assert len(figure.axes) == 2 and "8 pictures" in text
    assert all(axes.images for axes in figure.axes)
    plt.close(figure)


def test_pictures_are_tiled_in_reading_order() -> None:
    numbers = np.arange(3)[:, None, None, None] / 10 * np.ones((3, 2, 2, 3))
    canvas = pictures.tiled(numbers, 2)
    assert canvas.shape == (5, 5, 3)
    assert canvas[0, 3, 0] == np.float32(0.1) and canvas[3, 0, 0] == np.float32(0.2) and canvas[2, 2, 0] == 1
