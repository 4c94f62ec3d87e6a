"""Augmentation multiplicity (De et al. 2022, arXiv 2204.13650): several random views of an example, whose gradients are
averaged before the norm is taken. Views of one example depend on no other example, so they cost no privacy."""

import numpy as np


def flips_and_crops(images: np.ndarray, views: int, random: np.random.Generator, padding: int = 4) -> np.ndarray:
    """float32 (B, C, H, W) → (B, views, C, H, W): each view mirrored or not, and moved by up to `padding` pixels either
    way with the border reflected."""
    count, _, height, width = images.shape
    border = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, border, "reflect"), (height, width), (2, 3))
    top, left = random.integers(0, 2 * padding + 1, (2, count, views))
    moved = windows[np.arange(count)[:, None], :, top, left]  # (B, views, C, H, W)
    mirrored = random.integers(0, 2, (count, views, 1, 1, 1)).astype(bool)
    return np.ascontiguousarray(np.where(mirrored, moved[..., ::-1], moved))
