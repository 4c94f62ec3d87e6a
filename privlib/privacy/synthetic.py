"""Dead-leaves images: synthetic images with the statistics of natural ones, and nothing learned from anybody's data.

Occluding shapes of random size, place, orientation and colour, painted back to front (Lee, Mumford & Huang 2001,
"Occlusion models for natural images"; as a prior for learning: Baradad et al. 2021, arXiv 2106.05963). Radii follow a
density ~ r⁻³, which makes the image statistics nearly scale invariant. A few large shapes come first as background;
each shape is an ellipse or a rectangle with linear shading; the canvas is drawn at twice the size and averaged down;
texture with a 1/f spectrum and a random share of blur are added.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

SIZE = 32
"""Pixels of an image's side."""
_OVERSAMPLING = 2
_SHAPES, _BACKGROUND = 64, 8
_SMALLEST, _LARGEST = 1.5, 24.0  # radii, in pixels of the final image
_BATCH = 50


def dead_leaves(count: int, seed: int) -> Tensor:
    """`count` colour images, float32 (count, 3, 32, 32) in [0, 1]; the same for the same seed.

    Batches are painted side by side, each by one thread and from a generator of its own.
    """
    images = torch.empty(count, 3, SIZE, SIZE)

    def paint(start: int) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        images[start : start + _BATCH] = _painted(min(_BATCH, count - start), generator)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(paint, range(0, count, _BATCH)))
    finally:
        torch.set_num_threads(threads)
    return images


def _painted(count: int, generator: torch.Generator) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def colours() -> Tensor:
        """A grey level and a little colour: natural images are far from saturated."""
        return (uniform(count, 1) + 0.12 * normal(count, 3))[:, :, None, None]

    side = SIZE * _OVERSAMPLING
    along = torch.arange(side) / _OVERSAMPLING
    canvas = colours().expand(count, 3, side, side).clone()
    for shape in range(_SHAPES):
        u = uniform(count)
        radius = 1 / torch.sqrt(u / _SMALLEST**2 + (1 - u) / _LARGEST**2)  # density ~ r^-3
        if shape < _BACKGROUND:
            radius = 6 + 20 * uniform(count)
        x, y = (uniform(count) * (SIZE + 8) - 4 for _ in range(2))
        angle, aspect = math.pi * uniform(count), torch.exp(0.5 * normal(count))
        cosine, sine = angle.cos(), angle.sin()
        # coordinates in the shape's own frame: sums of a row and a column, because they are linear in the pixel
        first = _plane(along, x, y, cosine / (radius * aspect), sine / (radius * aspect))
        second = _plane(along, x, y, -sine * aspect / radius, cosine * aspect / radius)
        ellipse = first.square() + second.square() < 1
        rectangle = torch.maximum(first.abs(), second.abs()) < 0.85
        inside = torch.where((uniform(count) < 0.5)[:, None, None], ellipse, rectangle)[:, None]
        shading = 0.12 * normal(count)[:, None, None] * first.clamp(-1, 1)
        canvas = torch.where(inside, colours() + shading[:, None], canvas)
    images = functional.avg_pool2d(canvas, _OVERSAMPLING)
    images = images + 0.06 * uniform(count)[:, None, None, None] * _texture(normal(count, 1, SIZE, SIZE))
    share = uniform(count)[:, None, None, None]
    return (share * _blurred(images) + (1 - share) * images).clamp(0, 1)


def _plane(along: Tensor, x: Tensor, y: Tensor, slope_x: Tensor, slope_y: Tensor) -> Tensor:
    """(count, side, side): slope_x · (column − x) + slope_y · (row − y)."""
    columns = slope_x[:, None] * (along - x[:, None])
    rows = slope_y[:, None] * (along - y[:, None])
    return rows[:, :, None] + columns[:, None, :]


def _texture(noise: Tensor) -> Tensor:
    """White noise (count, 1, 32, 32) → a 1/f spectrum and standard deviation 1."""
    frequency = torch.fft.fftfreq(SIZE)
    magnitude = torch.sqrt(frequency[:, None] ** 2 + frequency[None] ** 2)
    magnitude[0, 0] = torch.inf  # no mean
    texture = torch.fft.ifft2(torch.fft.fft2(noise) / magnitude).real
    return texture / texture.flatten(1).std(1)[:, None, None, None]


def _blurred(images: Tensor) -> Tensor:
    """The binomial filter [1 2 1] both ways, edges mirrored."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (line[:, None] * line[None])[None, None].expand(3, 1, 3, 3)
    return functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)
