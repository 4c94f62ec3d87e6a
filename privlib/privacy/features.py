"""Feature maps whose every parameter comes from synthetic images: whitened patches against a dictionary of patches.

An image's 6×6 patches are normalised in mean and contrast, whitened and brought near unit length (Coates, Ng & Lee
2011, "An analysis of single-layer networks"); each is compared with a dictionary of random whitened patches closed
under mirroring, rectified on both sides of a threshold, and averaged over the cells of a 2×2 grid. Averaging each atom
with its mirror image in the mirrored cell makes the features equal for an image and its mirror image.

All maps are `torch.nn.Module`s for `privlib.compiler.compile_inference`, without trainable parameters. Images are
float32 (B, 3, H, W) in [0, 1]; maps of positions have the channels last.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH, GRID = 6, 2
"""Pixels of a patch's side; cells of the grid's side."""
CONTRAST_FLOOR = (10 / 255) ** 2
WHITENING_FLOOR = 0.01
PATCHES_AN_IMAGE = 20


class WhitenedPatches(nn.Module):
    """(B, 3, H, W) → (B, H−5, W−5, 108): p − mean; ÷ √(variance + (10/255)²); q = (p − m)·Z; ÷ (‖q‖ + √1.08).

    m (108,) and Z (108, 108), symmetric, from `fit`.
    """

    def __init__(self, mean: Tensor, whitening: Tensor) -> None:
        super().__init__()
        size = len(mean)
        self.patches = nn.Conv2d(3, size, PATCH, bias=False)
        self.contrast = nn.LayerNorm(size, eps=CONTRAST_FLOOR, elementwise_affine=False)
        self.whiten = nn.Linear(size, size)
        self.floor = 0.1 * math.sqrt(size)
        with torch.no_grad():
            self.patches.weight.copy_(torch.eye(size).view(size, 3, PATCH, PATCH))
            self.whiten.weight.copy_(whitening.T)
            self.whiten.bias.copy_(-mean @ whitening)
        self.requires_grad_(False)

    @staticmethod
    def fit(images: Tensor, seed: int) -> "tuple[WhitenedPatches, Tensor]":
        """From synthetic images: the map, and the patches (N, 108), normalised, not whitened, it was fitted to.

        m and Z = (C + 0.01·I)^(−1/2) are mean and covariance of 20 random patches an image and their mirror images.
        """
        patches = sample_patches(images, PATCHES_AN_IMAGE, seed)
        both = torch.cat([patches, mirrored_patches(patches)])
        mean = both.mean(0)
        covariance = (both - mean).T @ (both - mean) / len(both)
        values, vectors = torch.linalg.eigh(covariance.double())
        root = vectors / torch.sqrt(values.clamp_min(0) + WHITENING_FLOOR)
        return WhitenedPatches(mean, (root @ vectors.T).float()), patches

    def forward(self, images: Tensor) -> Tensor:
        whitened = self.whiten(self.contrast(self.patches(images).permute(0, 2, 3, 1)))
        return whitened / (whitened.square().sum(-1, keepdim=True).sqrt() + self.floor)


def sample_patches(images: Tensor, count: int, seed: int) -> Tensor:
    """`count` random patches of each image (N·count, 108), mean zero and contrast normalised."""
    generator = torch.Generator().manual_seed(seed)
    columns = images.shape[3] - PATCH + 1
    size = (len(images), count)
    y = torch.randint(0, images.shape[2] - PATCH + 1, size, generator=generator)
    x = torch.randint(0, columns, size, generator=generator)
    offsets = torch.arange(PATCH)
    rows = y[:, :, None, None] + offsets[:, None]
    across = x[:, :, None, None] + offsets
    which = torch.arange(len(images))[:, None, None, None]
    patches = images[which, :, rows, across].permute(0, 1, 4, 2, 3).flatten(0, 1).flatten(1)
    return functional.layer_norm(patches, patches.shape[1:], eps=CONTRAST_FLOOR)


def mirrored_patches(patches: Tensor) -> Tensor:
    """(N, 108), left and right exchanged."""
    return patches.view(-1, 3, PATCH, PATCH).flip(3).reshape(patches.shape)


def sample_atoms(whitened: Tensor, count: int, seed: int) -> Tensor:
    """Indices (count,) of random rows of `whitened` (N, D) longer than half the median: flat patches are left out."""
    lengths = whitened.norm(dim=1)
    usable = torch.nonzero(lengths > 0.5 * lengths.median())[:, 0]
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))
    return usable[order[:count]]


class MirrorDictionary(nn.Module):
    """Positions (B, h, w, D) → (B, 4·K): both sides of ⟨w, q⟩ beyond a threshold, averaged over a 2×2 grid.

    atoms (K, D): K/2 atoms, then their mirror images in the same order, each of unit length. An output belongs to
    (cell row, cell column, side, pair): atom and mirror image are averaged, the latter in the mirrored cell.
    """

    def __init__(self, atoms: Tensor, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.atoms = nn.Linear(atoms.shape[1], atoms.shape[0], bias=False)
        with torch.no_grad():
            self.atoms.weight.copy_(atoms / atoms.norm(dim=1, keepdim=True))
        self.requires_grad_(False)

    def forward(self, positions: Tensor) -> Tensor:
        cells = functional.adaptive_avg_pool2d(self.responses(positions).permute(0, 3, 1, 2), GRID)
        pairs = cells.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))  # row, column, side, mirror, pair
        return ((pairs[:, :, :, :, :1] + pairs[:, :, :, :, 1:].flip(2)) * 0.5).flatten(1)

    def responses(self, positions: Tensor) -> Tensor:
        """(B, h, w, 2·K): side by side."""
        return two_sided(self.atoms(positions), self.threshold)


def two_sided(z: Tensor, threshold: float) -> Tensor:
    """max(z − t, 0) and max(−z − t, 0) along the last axis."""
    return torch.cat([functional.relu(z - threshold), functional.relu(-z - threshold)], -1)


class PatchFeatures(nn.Module):
    """Whitened patches and a dictionary: (B, 3, H, W) → (B, 4·K). `halve`: of the image averaged 2×2."""

    def __init__(self, patches: WhitenedPatches, dictionary: MirrorDictionary, halve: bool = False) -> None:
        super().__init__()
        self.patches, self.dictionary, self.halve = patches, dictionary, halve

    @staticmethod
    def fit(images: Tensor, atoms: int, threshold: float, seed: int, halve: bool = False) -> "PatchFeatures":
        """From synthetic images; `atoms` counts mirror images."""
        seen = functional.avg_pool2d(images, 2) if halve else images
        patches, sampled = WhitenedPatches.fit(seen, seed)
        return PatchFeatures(patches, patch_dictionary(patches, sampled, atoms, threshold, seed), halve)

    def forward(self, images: Tensor) -> Tensor:
        seen = functional.avg_pool2d(images, 2) if self.halve else images
        return self.dictionary(self.patches(seen))


def patch_dictionary(
    patches: WhitenedPatches, sampled: Tensor, atoms: int, threshold: float, seed: int
) -> MirrorDictionary:
    """Of random ones among the `sampled` patches (N, 108)."""
    chosen = sampled[sample_atoms(patches.whiten(sampled), atoms // 2, seed + 1)]
    both = torch.cat([chosen, mirrored_patches(chosen)])
    return MirrorDictionary(patches.whiten(both), threshold)
