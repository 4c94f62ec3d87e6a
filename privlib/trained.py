"""Networks trained without privacy on CIFAR-10, so that what is compiled and protected later computes something real.

Trained once, then kept in the cache under a hash of everything that shapes the result: this code, the network's, the
recipe, the data's digest, torch's version. Cross-entropy, Nesterov SGD, a learning rate that rises linearly over the
first fifth and falls linearly to zero (Smith 2018), random flips and, where the recipe says so, shifts.
"""

import contextlib
import fcntl
import hashlib
import inspect
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from privlib import models
from privlib.data import Cifar10, load_cifar10, preprocess
from privlib.data.sample import SAMPLE
from privlib.errors import PrivlibError
from privlib.files import atomic_path, cache_dir
from privlib.progress import ConsoleProgress, Progress

Profile = Literal["smoke", "quick", "full"]

_EVALUATION_BATCH = 500


class TrainingError(PrivlibError):
    """No recipe for what was asked, or a training that ended below its accuracy floor."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. `accuracy_floor`: fraction of CIFAR-10's test images that it must get right, None
    where none is claimed; `train_images`: how many of the training images are used, None for all."""

    epochs: int
    learning_rate: float
    accuracy_floor: float | None = None
    shifts: bool = False
    train_images: int | None = None
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 1


RECIPES: dict[tuple[models.Name, Profile], Recipe] = {
    ("small_cnn", "smoke"): Recipe(epochs=1, learning_rate=0.05, train_images=2000),
    ("small_cnn", "quick"): Recipe(epochs=2, learning_rate=0.1, accuracy_floor=0.60),
    ("small_cnn", "full"): Recipe(epochs=12, learning_rate=0.1, accuracy_floor=0.65, shifts=True),
    ("vgg9", "quick"): Recipe(epochs=1, learning_rate=0.015, train_images=15_000, batch_size=32),
    ("vgg9", "full"): Recipe(epochs=8, learning_rate=0.03, shifts=True),
    ("resnet32", "quick"): Recipe(epochs=1, learning_rate=0.05, train_images=25_000, batch_size=32),
    ("resnet32", "full"): Recipe(epochs=10, learning_rate=0.2, shifts=True),
    ("mobilenet", "quick"): Recipe(epochs=1, learning_rate=0.05, train_images=30_000, batch_size=32),
    ("mobilenet", "full"): Recipe(epochs=10, learning_rate=0.2, shifts=True),
}
"""(network, profile) -> recipe. On two idle cores "quick" takes about a minute (the larger networks stay far below what
they can learn), "full" up to 40 minutes each."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network in evaluation mode and how it came about.

    norm: as of `models.build`; test_accuracy: fraction of `test_images` images; data_source: as `Cifar10.source`;
    data_digests: SHA-256 of the train and test split; key: the content hash it is cached under; train_seconds: of the
    training, whenever it was.
    """

    model: nn.Module
    name: str
    norm: models.Norm | None
    profile: str
    recipe: Recipe
    test_accuracy: float
    test_images: int
    data_source: str
    data_digests: tuple[str, str]
    train_seconds: float
    key: str
    from_cache: bool

    @property
    def accuracy_line(self) -> str:
        """One line for people: accuracy, on what, and the floor where one is claimed."""
        floor = self.recipe.accuracy_floor
        sample = self.data_source == SAMPLE
        claimed = "no floor claimed" if sample or floor is None else f"floor {floor:.0%}"
        source = SAMPLE if sample else f"CIFAR-10, source {self.data_source}"
        what = f"{self.name}, {self.norm} norm" if self.norm else self.name
        return f"{what}: {self.test_accuracy:.1%} of {self.test_images:,} test images ({source}; {claimed})"


def load_trained(
    name: models.Name = "small_cnn",
    profile: Profile = "quick",
    progress: Progress | None = None,
    data: tuple[Cifar10, Cifar10] | None = None,
    norm: models.Norm | None = None,
) -> TrainedModel:
    """The trained network from the cache, else trained now and cached.

    `norm`: as in `models.build`. `data`: train and test split, by default those of `load_cifar10`. Raises
    `TrainingError` when there is no recipe, or when the whole of CIFAR-10 was used and the accuracy floor was missed
    (then nothing is cached).
    """
    if (name, profile) not in RECIPES:
        known = ", ".join(" ".join(each) for each in RECIPES)
        raise TrainingError(f"no recipe to train {name!r} in profile {profile!r}; there are: {known}")
    recipe = RECIPES[name, profile]
    train, test = data or (load_cifar10("train", progress=progress), load_cifar10("test", progress=progress))
    key = _key(name, recipe, train, test, norm)
    path = cache_dir("trained") / f"{name}-{profile}-{key[:16]}.pt"
    with _locked(path):
        stored = _read(path)
        if stored is None:
            model = _build(name, recipe, norm)
            stored = _train_and_store(path, model, name, recipe, train, test, progress or ConsoleProgress())
            from_cache = False
        else:
            from_cache = True
    weights, facts = stored
    model = _build(name, recipe, norm)
    model.load_state_dict(weights)
    return TrainedModel(
        model=model.eval(),
        name=name,
        norm=norm,
        profile=profile,
        recipe=recipe,
        data_source=train.source,
        data_digests=(train.digest, test.digest),
        key=key,
        from_cache=from_cache,
        **facts,
    )


def evaluate(model: nn.Module, data: Cifar10) -> float:
    """Fraction of the images that the model, put in evaluation mode, labels rightly."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data), _EVALUATION_BATCH):
            rows = slice(start, start + _EVALUATION_BATCH)
            images = torch.from_numpy(preprocess(data.images[rows])).to(memory_format=torch.channels_last)
            right += int((model(images).argmax(1).numpy() == data.labels[rows]).sum())
    return right / len(data)


def train(model: nn.Module, recipe: Recipe, data: Cifar10, progress: Progress, what: str = "train") -> None:
    """Train in place as the recipe says; shuffling, flips and shifts come from its seed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    images = data.images[: recipe.train_images]
    labels = torch.from_numpy(data.labels[: recipe.train_images].astype(np.int64))
    batch = min(recipe.batch_size, len(labels))
    steps = recipe.epochs * (len(labels) // batch)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    model.train()
    _lay_out(model, torch.channels_last)
    step = 0
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _one_cycle(step / steps)
            chosen = torch.from_numpy(preprocess(images[np.sort(rows.numpy())]))
            logits = model(_augment(chosen, generator, shifts=recipe.shifts))
            loss = functional.cross_entropy(logits, labels[rows.sort().values])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            progress(what, step, steps)
    model.eval()
    _lay_out(model, torch.contiguous_format)


def _build(name: models.Name, recipe: Recipe, norm: models.Norm | None) -> nn.Module:
    """The network with the recipe's initial weights; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return models.build(name, norm=norm)


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Channel-last weights train faster on a CPU; a caller gets them back in the default order."""
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's own annotations leave it out


def _one_cycle(done: float, rise: float = 0.2) -> float:
    """Share of the peak learning rate after `done` (0–1) of the steps."""
    return (done + 0.01) / (rise + 0.01) if done < rise else (1 - done) / (1 - rise)


def _augment(images: Tensor, generator: torch.Generator, *, shifts: bool) -> Tensor:
    """Each image (B,3,H,W) mirrored with probability one half and, with `shifts`, moved by up to 4 pixels."""
    count, _, height, width = images.shape
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(3), images)
    if shifts:
        padded = functional.pad(images, (4, 4, 4, 4))
        down, right = torch.randint(0, 9, (2, count, 1), generator=generator)
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        each = torch.arange(count)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def _key(name: str, recipe: Recipe, train_data: Cifar10, test_data: Cifar10, norm: models.Norm | None = None) -> str:
    shaping = {
        "code": [inspect.getsource(each) for each in (models, sys.modules[__name__], preprocess)],
        "name": name,
        "norm": norm,
        "recipe": asdict(recipe),
        "data": [train_data.digest, test_data.digest],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _train_and_store(
    path: Path,
    model: nn.Module,
    name: models.Name,
    recipe: Recipe,
    train_data: Cifar10,
    test_data: Cifar10,
    progress: Progress,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    started = time.monotonic()
    train(model, recipe, train_data, progress, f"train {name}")
    accuracy = evaluate(model, test_data)
    whole = SAMPLE not in (train_data.source, test_data.source)
    if whole and recipe.accuracy_floor is not None and accuracy < recipe.accuracy_floor:
        raise TrainingError(
            f"{name} reached {accuracy:.1%} of the test images, below its floor of {recipe.accuracy_floor:.0%}: "
            "the training code or torch changed its behaviour; nothing was cached"
        )
    weights = model.state_dict()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    facts = {"test_accuracy": accuracy, "test_images": len(test_data), "train_seconds": time.monotonic() - started}
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    with atomic_path(path.with_suffix(".json")) as temporary:  # last: it vouches for the weights
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        temporary.write_text(json.dumps({"weights_sha256": digest, "facts": facts}), encoding="utf-8")
    return weights, facts


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and facts, or None when they are not there, whole and unchanged: then they are made again."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        content = path.read_bytes()
        intact = hashlib.sha256(content).hexdigest() == record["weights_sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return (torch.load(io.BytesIO(content), weights_only=True), record["facts"]) if intact else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Of two processes that want the same network, one trains and the other waits for it."""
    with open(path.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
