"""Dead-leaves images: repeatable, in range, with the spectrum that natural images have."""

import numpy as np
import pytest
import torch

from privlib.privacy.synthetic import dead_leaves


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return dead_leaves(120, 5)


def test_images_are_in_range_and_differ(images: torch.Tensor) -> None:
    assert images.shape == (120, 3, 32, 32) and images.dtype == torch.float32
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert len({each.numpy().tobytes() for each in images}) == 120


def test_the_same_seed_gives_the_same_images_however_many_are_asked_for(images: torch.Tensor) -> None:
    assert torch.equal(dead_leaves(100, 5), images[:100])
    assert not torch.equal(dead_leaves(50, 6), images[:50])


def test_threads_of_the_caller_are_left_alone() -> None:
    before = torch.get_num_threads()
    dead_leaves(3, 0)
    assert torch.get_num_threads() == before


def test_power_falls_as_in_natural_images(images: torch.Tensor) -> None:
    """About 1/f² (Field 1987): the slope of log power over log frequency, along rows."""
    grey = images.mean(1) - images.mean((1, 2, 3), keepdim=False)[:, None, None]
    power = torch.fft.rfft(grey * torch.hann_window(32)).abs().square().mean((0, 1)).numpy()
    slope = np.polyfit(np.log(np.arange(2, 14)), np.log(power[2:14]), 1)[0]
    assert -3.5 < slope < -1.5


def test_colours_are_far_from_saturated(images: torch.Tensor) -> None:
    within = images.std(1).mean()
    assert 0.02 < float(within) < 0.2 < float(images.std()) < 0.4
