"""ScatterNet features as Tramèr & Boneh 2021 (arXiv 2011.11660) use them, by kymatio: wavelet scattering of order two,
J = 2, in 8×8 positions and 3·81 channels, with group normalisation over 27 groups; rows of length one."""

import importlib.metadata
import math

import numpy as np
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from torch.nn import functional

from privlib.privacy.preparation import CONSTANT, CONSTANT_COLUMNS
from privlib.progress import Progress
from privlib.trusted.runtime import aligned_empty

GROUPS = 27
SIZE = 3 * 81 * 8 * 8
_BATCH = 100


def version() -> str:
    return importlib.metadata.version("kymatio")


def rows(images: np.ndarray, progress: Progress) -> np.ndarray:
    """uint8 (N, 32, 32, 3) → float32 (N, 15552 + 32)."""
    transform = ScatteringTorch2D(J=2, shape=(32, 32))
    result = aligned_empty((len(images), SIZE + CONSTANT_COLUMNS), "float32")
    result[:, SIZE:] = CONSTANT / math.sqrt(CONSTANT_COLUMNS)
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(np.array(images[start : start + _BATCH])).permute(0, 3, 1, 2).float() / 255
        maps = functional.group_norm(transform(batch.contiguous()).flatten(1, 2), GROUPS).flatten(1)
        result[start : start + _BATCH, :SIZE] = functional.normalize(maps).numpy()
        progress("scattering", min(start + _BATCH, len(images)), len(images))
    return result
