"""A cache of its own for every test session, and one small private step compiled once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from privlib.compiler import DPSGD, SGD, compile_training

FEATURES, CLASSES, BATCH = 7, 3, 8


@dataclass(frozen=True)
class Examples:
    images: np.ndarray
    labels: np.ndarray


def examples(count: int = 60, seed: int = 0) -> Examples:
    """A problem that a linear model solves."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((count, FEATURES)).astype(np.float32)
    return Examples(images, (images[:, :CLASSES]).argmax(1))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`$PRIVLIB_CACHE` for the whole session, so that tests may share what they compile."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVLIB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """An exported step with momentum; every test loads its own copy."""
    step = compile_training(
        linear(),
        BATCH,
        input_shape=(FEATURES,),
        optimizer=SGD(0.5, momentum=0.9),
        privacy=DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=12),
    )
    return step.export(tmp_path_factory.mktemp("step") / "linear.privlib")
