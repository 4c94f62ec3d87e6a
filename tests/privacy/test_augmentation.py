"""Views and learning rates."""

import math

import numpy as np
import pytest

from privlib.privacy.augmentation import flips_and_crops
from privlib.privacy.schedules import constant, cosine


def test_every_view_is_a_mirrored_or_moved_copy_of_its_image() -> None:
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    views = flips_and_crops(images, 6, np.random.default_rng(1), padding=2)
    assert views.shape == (5, 6, 3, 8, 8) and views.dtype == np.float32 and views.flags.c_contiguous
    kinds = set()
    for image, own in zip(images, views, strict=True):
        padded = np.pad(image, [(0, 0), (2, 2), (2, 2)], "reflect")
        possible = {
            (top, left, mirrored): padded[:, top : top + 8, left : left + 8][..., :: -1 if mirrored else 1]
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
        }
        for view in own:
            (kind,) = [name for name, value in possible.items() if np.array_equal(value, view)]
            kinds.add(kind)
    assert len(kinds) > 15 and {kind[2] for kind in kinds} == {False, True}


def test_cosine_rises_and_falls() -> None:
    rate = cosine(2.0, 10, warmup=3, floor=0.5)
    assert [rate(step) for step in range(3)] == [0.5, 1.0, 1.5]
    assert rate(3) == 2.0 and rate(10) == pytest.approx(0.5) == rate(50)
    assert rate(6) == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi * 3 / 7)) / 2)
    assert constant(0.3)(7) == 0.3
