"""The two feature recipes, fitted to synthetic images and compiled: images in, rows for a private linear head out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from privlib.compiler import compile_inference
from privlib.errors import PrivlibError
from privlib.privacy.features import PatchFeatures, WhitenedPatches, patch_dictionary
from privlib.privacy.preparation import fit_preparation
from privlib.privacy.second_layer import SecondLayer, fit_second_layer
from privlib.privacy.synthetic import dead_leaves
from privlib.progress import Progress, silent
from privlib.trusted import CompiledModel
from privlib.trusted.runtime import aligned_empty

BATCH = 20
"""Images of a compiled batch: their maps stay in the cache."""


class RecipeError(PrivlibError):
    """A recipe that does not exist, or too few synthetic images for it."""


@dataclass(frozen=True)
class Recipe:
    """How features are made.

    atoms, threshold: of the dictionary over 6×6 patches, mirror images counted. deep: also a second layer, and the
    patches of the image at half size. synthetic: dead-leaves images it is fitted to; statistics of the rows come from
    two thirds of them.
    """

    atoms: int
    threshold: float
    deep: bool
    synthetic: int = 12_000


RECIPES = {
    "patches": Recipe(atoms=1024, threshold=0.2, deep=False),
    "deep_patches": Recipe(atoms=2048, threshold=0.25, deep=True),
}
"""Constants chosen on a split of CIFAR-10's training images (45,000 / 5,000); what was tried is in the run record."""


class DeepFeatures(nn.Module):
    """Patches, a second layer over them, and patches at half size, side by side: (B, 3, 32, 32) → (B, D)."""

    def __init__(self, first: PatchFeatures, second: SecondLayer, coarse: PatchFeatures) -> None:
        super().__init__()
        self.first, self.second, self.coarse = first, second, coarse

    def forward(self, images: Tensor) -> Tensor:
        patches = self.first.patches(images)
        return torch.cat([self.first.dictionary(patches), self.second(patches), self.coarse(images)], 1)


@dataclass(frozen=True)
class FeatureMap:
    """A fitted recipe: `module` in PyTorch, `compiled` the same as native code; for pictures the synthetic `images` and
    the `first` layer of patches."""

    module: nn.Module
    compiled: CompiledModel
    images: Tensor
    first: PatchFeatures

    def rows(self, images: np.ndarray, progress: Progress = silent) -> np.ndarray:
        """uint8 (N, 32, 32, 3) → rows float32 (N, D)."""
        return run_images(self.compiled, images, progress)


def fit(recipe: Recipe, seed: int = 1, progress: Progress = silent) -> FeatureMap:
    """Draw synthetic images, fit every part to them, compile. The same seed gives the same map."""
    if recipe.synthetic < 600:
        raise RecipeError(f"{recipe.synthetic} synthetic images are too few to fit to: take at least 600")
    images = dead_leaves(recipe.synthetic, seed)
    features, first = _features(recipe, images, seed)
    statistics = images[: 2 * recipe.synthetic // 3]
    prepared = nn.Sequential(features, fit_preparation(run_module(features, statistics, progress), seed))
    return FeatureMap(prepared, compile_inference(prepared, BATCH), images, first)


def _features(recipe: Recipe, images: Tensor, seed: int) -> tuple[nn.Module, PatchFeatures]:
    first = PatchFeatures.fit(images, recipe.atoms, recipe.threshold, seed)
    if not recipe.deep:
        return first, first
    patches, sampled = WhitenedPatches.fit(images, seed)
    small = patch_dictionary(patches, sampled, 256, 0.15, seed + 10)
    second = fit_second_layer(images, patches, small, 1024, 0.12, run_module, seed + 20)
    coarse = PatchFeatures.fit(images, 1024, 0.15, seed + 30, halve=True)
    return DeepFeatures(first, second, coarse), first


def run_module(module: nn.Module, images: Tensor, progress: Progress = silent) -> Tensor:
    """Compile a module and apply it to images (N, 3, 32, 32)."""
    compiled = compile_inference(module, BATCH)
    return torch.from_numpy(_in_pieces(compiled, len(images), lambda rows: images[rows].numpy(), progress))


def run_images(compiled: CompiledModel, images: np.ndarray, progress: Progress = silent) -> np.ndarray:
    """Apply a compiled module to uint8 (N, 32, 32, 3), scaled to [0, 1]."""

    def piece(rows: slice) -> np.ndarray:
        return np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2), np.float32) / np.float32(255)

    return _in_pieces(compiled, len(images), piece, progress)


def _in_pieces(
    compiled: CompiledModel, count: int, piece: Callable[[slice], np.ndarray], progress: Progress
) -> np.ndarray:
    result = aligned_empty((count, *compiled.output_shape), "float32")
    for start in range(0, count, 1000):
        rows = slice(start, start + 1000)
        result[rows] = compiled.run(piece(rows))
        progress("features", min(start + 1000, count), count)
    return result
