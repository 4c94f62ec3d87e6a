"""What each dataset is worth to a job, from statistics that are private before anybody compares anything.

Statistics  of each dataset, once: S = Σ v(x) ⊗ onehot(y), K × (F + 1), where v(x) = (features, 1) / |(features, 1)|:
            the image averaged over a coarse grid and flattened. Every example adds one row of norm 1, so adding or
            removing one changes S by 1 in L2, plus what rounding adds (below).
Mechanism   Gaussian on an integer grid, as in the training step: each example's row is rounded to multiples of 2⁻²⁰,
            summed exactly, and integer noise of standard deviation ν is added. Charged to each dataset's own budget as
            one full-batch Gaussian of multiplier ν / (1 + √(F + 1) · 2⁻²¹), before it is computed.
Values      everything after that is post-processing and free: Shapley's value (Shapley 1953; Ghorbani & Zou 2019,
            arXiv 1904.02868) over the utility of coalitions below.

The utility needs no validation set, and nobody vouches for itself: what a coalition says of the classes, each provider
itself left out, is held against that provider's noisy class means. Junk agrees with nobody. What it does not notice:
providers who conspire to send the same junk, and it appraises these statistics, not the model that is trained.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.events import Event
from privlib.trusted.randomness import Stream

GRID = 8  # features are averages over GRID × GRID fields of each channel
STEP = 2.0**-20
EXACT_UP_TO = 8
PERMUTATIONS = 2000
WHOLE = 1_000_000


class AppraisalError(PrivlibError):
    """Statistics that do not fit one another, or no dataset."""


def appraisal_event(noise_multiplier: float, features: int) -> Event:
    """What one dataset is charged for its statistics. features: F, without the constant one."""
    sensitivity = 1 + math.sqrt(features + 1) * STEP / 2
    return Event("full", noise_multiplier / sensitivity, 1)


def feature_count(input_shape: Sequence[int]) -> int:
    """F of images (C, H, W)."""
    channels, height, width = input_shape
    return channels * min(GRID, height) * min(GRID, width)


def noisy_statistics(images: np.ndarray, labels: np.ndarray, classes: int, noise_multiplier: float) -> np.ndarray:
    """S with its noise, float64 (classes, F + 1). images float32 (n, C, H, W) or (n, K, C, H, W): the first view;
    labels int64 (n,). A non-finite image counts for nothing."""
    total = np.zeros((classes, feature_count(images.shape[-3:]) + 1), np.int64)
    for start in range(0, len(labels), 4096):
        rows = _rows(images[start : start + 4096])
        np.add.at(total, labels[start : start + 4096], np.rint(rows / STEP).astype(np.int64))
    return (total + _integer_noise(noise_multiplier / STEP, total.shape)) * STEP


def _rows(images: np.ndarray) -> np.ndarray:
    """Unit vectors, float64 (n, F + 1); zeros for a non-finite image."""
    views = images[:, 0] if images.ndim == 5 else images
    count, channels, height, width = views.shape
    rows, columns = min(GRID, height), min(GRID, width)
    cut = views[:, :, : height // rows * rows, : width // columns * columns].astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        fields = cut.reshape(count, channels, rows, height // rows, columns, width // columns).mean((3, 5))
    vectors: np.ndarray = np.concatenate([fields.reshape(count, -1), np.ones((count, 1))], 1)
    finite = np.isfinite(vectors).all(1)
    vectors = np.where(finite[:, None], np.clip(vectors, -1e6, 1e6), 0.0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _integer_noise(deviation: float, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise rounded to integers, int64: Box & Muller on 53-bit uniforms of ChaCha20 (`randomness`)."""
    count = math.prod(shape)
    words = Stream().words(2 * count)
    radius, angle = (((half >> np.uint64(11)) + np.uint64(1)) * 2.0**-53 for half in (words[:count], words[count:]))
    normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return np.rint(deviation * normal).astype(np.int64).reshape(shape)


def utility(members: Sequence[int], statistics: Sequence[np.ndarray]) -> float:
    """Of a coalition, from 0 to 1: how often the nearest class mean of its members names the class of a provider's
    class mean, that provider left out, weighted by its noisy counts. Where no member is left they guess."""
    classes = statistics[0].shape[0]
    right = whole = 0.0
    for provider, each in enumerate(statistics):
        theirs, present = _means(each)
        weights = np.where(present, np.maximum(each[:, -1], 0), 0)
        others = [statistics[member] for member in members if member != provider]
        if not others:
            right, whole = right + float(weights.sum()) / classes, whole + float(weights.sum())
            continue
        means, known = _means(np.sum(others, 0))
        distances = np.where(known[None, :], -(theirs @ means.T), np.inf)
        right += float(weights[np.argmin(distances, 1) == np.arange(classes)].sum())
        whole += float(weights.sum())
    return right / whole if whole > 0 else 1 / classes


def _means(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit class means, centred over the classes, and which classes have any."""
    present = statistics[:, -1] > 0
    scaled = statistics[:, :-1] / np.where(present, statistics[:, -1], 1)[:, None]
    centred = np.where(present[:, None], scaled - (scaled[present].mean(0) if present.any() else 0), 0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0), present


def shapley(value: Callable[[tuple[int, ...]], float], players: int, permutations: int = PERMUTATIONS) -> np.ndarray:
    """Shapley's value of each player, float64 (players,): exactly up to EXACT_UP_TO players, else from random orders
    (Castro, Gómez & Tejada 2009; its standard error falls as 1/√permutations). value: of a sorted coalition."""
    if players < 1:
        raise AppraisalError("there is nobody to appraise")
    known: dict[tuple[int, ...], float] = {}

    def worth(members: tuple[int, ...]) -> float:
        if members not in known:
            known[members] = value(members)
        return known[members]

    result = np.zeros(players)
    if players <= EXACT_UP_TO:
        for player in range(players):
            others = [each for each in range(players) if each != player]
            for size in range(players):
                weight = 1 / (players * math.comb(players - 1, size))
                for members in combinations(others, size):
                    gain = worth(tuple(sorted((*members, player)))) - worth(members)
                    result[player] += weight * gain
        return result
    for _ in range(permutations):
        before, members = worth(()), ()
        for player in Stream().shuffled(np.arange(players)):
            members = tuple(sorted((*members, int(player))))
            after = worth(members)
            result[player] += (after - before) / permutations
            before = after
    return result


def weights_of(values: np.ndarray) -> list[int]:
    """Whole weights for a payment by value, at least one of them positive: a negative value counts as none, and where
    there is no positive one all are equal."""
    positive = np.maximum(values, 0)
    if positive.sum() <= 0:
        return [1] * len(values)
    return [int(each) for each in np.rint(WHOLE * positive / positive.sum())]
