"""A second patch layer on top of the first one's responses: larger structure, the same recipe, synthetic images alone.

Responses of a small dictionary are averaged 3×3 every second position and square-rooted. Sum and difference of an atom
and its mirror image are the even and the odd part under mirroring; principal components of each (64 and 64) give maps
of 128 channels, on which mirroring flips the image and negates the odd ones. 3×3 patches of these are brought to a
common contrast, whitened to 256 components and unit length, and go through a dictionary like the first layer's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from privlib.privacy.features import MirrorDictionary, WhitenedPatches, two_sided

PARTS = 64
"""Principal components kept of the even and of the odd part."""
PATCH, COMPONENTS = 3, 256
PATCHES_AN_IMAGE = 8
_POOL, _STRIDE = 3, 2
_EQUALISE, _PART_FLOOR = 0.25, 1e-3  # exponent and floor of the parts' scaling
_CONTRAST, _WHITENING_FLOOR, _LENGTH_FLOOR = 0.1, 0.05, 1e-3

Run = Callable[[nn.Module, Tensor], Tensor]
"""Applies a module to all of (N, 3, 32, 32)."""


class MirrorParts(nn.Module):
    """Whitened patches (B, 27, 27, 108) → maps (B, 13, 13, 128): even channels first, then odd ones."""

    def __init__(self, dictionary: MirrorDictionary, projection: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.project = nn.Linear(projection.shape[0], projection.shape[1])
        with torch.no_grad():
            self.project.weight.copy_(projection.T)
            self.project.bias.copy_(shift)
        self.requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        return self.project(pooled_roots(self.dictionary, patches))


def pooled_roots(dictionary: MirrorDictionary, patches: Tensor) -> Tensor:
    """Square roots of responses averaged 3×3, every second position: (B, 27, 27, D) → (B, 13, 13, 2·K)."""
    responses = two_sided(dictionary.atoms(patches), dictionary.threshold)
    return functional.avg_pool2d(responses.permute(0, 3, 1, 2), _POOL, _STRIDE).permute(0, 2, 3, 1).sqrt()


class SecondLayer(nn.Module):
    """Whitened patches (B, 27, 27, 108) → (B, 4·K): `MirrorParts`, whitened 3×3 patches, a dictionary."""

    def __init__(self, parts: MirrorParts, level: float, mean: Tensor, whitening: Tensor, atoms: Tensor, t: float):
        super().__init__()
        self.parts, self.floor = parts, _CONTRAST * level
        channels = 2 * PARTS
        self.whiten = nn.Conv2d(channels, whitening.shape[1], PATCH, bias=False)
        self.shift = nn.Parameter(-mean @ whitening)
        self.dictionary = MirrorDictionary(atoms, t)
        with torch.no_grad():
            self.whiten.weight.copy_(whitening.T.reshape(-1, channels, PATCH, PATCH))
        self.requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        maps = self.parts(patches).permute(0, 3, 1, 2)
        energy = functional.avg_pool2d(maps.square().mean(1, keepdim=True), PATCH, 1)
        contrast = (energy + self.floor).sqrt().permute(0, 2, 3, 1)
        whitened = self.whiten(maps).permute(0, 2, 3, 1) / contrast + self.shift
        return self.dictionary(whitened / (whitened.square().sum(-1, keepdim=True).sqrt() + _LENGTH_FLOOR))


def fit_second_layer(
    images: Tensor,
    patches: WhitenedPatches,
    first: MirrorDictionary,
    atoms: int,
    threshold: float,
    run: Run,
    seed: int,
) -> SecondLayer:
    """From synthetic images; `atoms` counts mirror images, `first` is the small dictionary below."""
    parts = _fit_parts(run(_Chain(patches, _PooledRoots(first)), images[: len(images) // 4]), first)
    sampled = _sample(run(_Chain(patches, parts), images), seed)
    level = float(sampled.square().mean())
    sampled = sampled / torch.sqrt(sampled.square().mean(1, keepdim=True) + _CONTRAST * level)
    mirrored = _mirrored(sampled)
    mean = (sampled.mean(0) + mirrored.mean(0)) / 2
    covariance = sum((each - mean).T @ (each - mean) for each in (sampled, mirrored)) / (2 * len(sampled))
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance).double())
    values, vectors = values.flip(0)[:COMPONENTS], vectors.flip(1)[:, :COMPONENTS]
    whitening = (vectors / torch.sqrt(values + _WHITENING_FLOOR * values.mean())).float()
    chosen = torch.randperm(len(sampled), generator=torch.Generator().manual_seed(seed + 1))[: atoms // 2]
    dictionary = torch.cat([(each[chosen] - mean) @ whitening for each in (sampled, mirrored)])
    return SecondLayer(parts, level, mean, whitening, dictionary, threshold)


class _PooledRoots(nn.Module):
    def __init__(self, dictionary: MirrorDictionary) -> None:
        super().__init__()
        self.dictionary = dictionary

    def forward(self, patches: Tensor) -> Tensor:
        return pooled_roots(self.dictionary, patches)


class _Chain(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images))


def _fit_parts(roots: Tensor, dictionary: MirrorDictionary) -> MirrorParts:
    """roots (N, 13, 13, 2·K): principal components of the sums and differences of mirror images."""
    sides = roots.flatten(0, 2).unflatten(1, (2, 2, -1))  # position, side, mirror, pair
    even, odd = (sides[:, :, 0] + sides[:, :, 1]).flatten(1), (sides[:, :, 0] - sides[:, :, 1]).flatten(1)
    mean = even.mean(0)
    projections = [_equalised_components(even - mean), _equalised_components(odd)]
    shape = (2, -1, PARTS)  # sides, pairs
    into_even, into_odd = (each.reshape(shape) for each in projections)
    first, second = (torch.cat([into_even, sign * into_odd], 2) for sign in (1, -1))
    projection = torch.stack([first, second], 1).flatten(0, 2)  # side, mirror, pair
    shift = torch.cat([-mean @ projections[0], torch.zeros(PARTS)])
    return MirrorParts(dictionary, projection, shift)


def _equalised_components(rows: Tensor) -> Tensor:
    """(D, PARTS): leading components of centred rows, strong ones scaled down."""
    values, vectors = torch.linalg.eigh((rows.T @ rows / len(rows)).double())
    values, vectors = values.flip(0)[:PARTS], vectors.flip(1)[:, :PARTS]
    return (vectors * ((values + _PART_FLOOR * values[0]) / values[0]).pow(-_EQUALISE)).float()


def _sample(maps: Tensor, seed: int) -> Tensor:
    """Random 3×3 patches of maps (N, h, w, C), as rows (channel, row, column): the order of a convolution's weight."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(maps), PATCHES_AN_IMAGE)
    y, x = (torch.randint(0, side - PATCH + 1, size, generator=generator) for side in maps.shape[1:3])
    offsets = torch.arange(PATCH)
    which = torch.arange(len(maps))[:, None, None, None]
    found = maps[which, y[:, :, None, None] + offsets[:, None], x[:, :, None, None] + offsets]
    return found.flatten(0, 1).permute(0, 3, 1, 2).flatten(1)


def _mirrored(rows: Tensor) -> Tensor:
    """The patch of the mirrored image: columns reversed, odd channels negated."""
    sign = torch.cat([torch.ones(PARTS), -torch.ones(PARTS)])[:, None, None]
    return (rows.view(-1, 2 * PARTS, PATCH, PATCH).flip(3) * sign).flatten(1)
