"""Networks trained end to end with DP-SGD on CIFAR-10: what `utility` sets beside private heads over fixed features.

The tanh network is that of Papernot et al. 2021 (arXiv 2007.14191) and Tramèr & Boneh 2021 (arXiv 2011.11660, whose
clipping norm and batch size it takes); VGG-9 and ResNet-32 are the talk's.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from privlib import models
from privlib.compiler import DPSGD, SGD, compile_training
from privlib.data import Cifar10, preprocess
from privlib.privacy import (
    PoissonSampler,
    PrivacyLedger,
    TrainingRun,
    calibrate_noise,
    effective_noise_multiplier,
    train,
)
from privlib.privacy.evaluation import accuracy_on
from privlib.privacy.schedules import cosine
from privlib.progress import ConsoleProgress

SEED = 1
"""Of the initial weights; samples and noise come from the operating system."""

TUNING = (
    "tanh_cnn, vgg9, resnet32: one run each, settings taken from publications or chosen beforehand and not tuned here; "
    "the number of epochs is what 30 minutes on two cores allow."
)


@dataclass(frozen=True)
class Network:
    """A row. batch: expected, of a Poisson sample; physical: examples of a physical batch; ema: decay of the average of
    the weights that is judged."""

    build: Callable[[], nn.Module]
    epsilon: float
    epochs: int
    learning_rate: float
    max_grad_norm: float
    momentum: float
    batch: int = 1024
    physical: int = 64
    ema: float = 0.99


class TanhNetwork(nn.Module):
    """Six 3×3 convolutions of 32, 32, 64, 64, 128, 128 channels with tanh, a 2×2 maximum after each pair, dense 128 and
    10: float32 (B, 3, 32, 32) → (B, 10); 550,570 parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in ((3, 32, 32), (32, 64, 64), (64, 128, 128)):
            for before, after in pairwise(channels):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.Tanh()]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(2048, 128), nn.Tanh(), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits


NETWORKS = {
    "tanh_cnn": Network(TanhNetwork, 3.0, 30, learning_rate=1.0, max_grad_norm=0.1, momentum=0.9),
    "vgg9": Network(lambda: models.build("vgg9"), 8.0, 12, learning_rate=2.0, max_grad_norm=1.0, momentum=0.0),
    "resnet32": Network(lambda: models.build("resnet32"), 8.0, 18, learning_rate=2.0, max_grad_norm=1.0, momentum=0.0),
}
LABELS = {"tanh_cnn": "tanh CNN, end to end", "vgg9": "VGG-9, end to end", "resnet32": "ResNet-32, end to end"}
DELTA = 1e-5


@dataclass(frozen=True)
class Trained:
    """A run and the noise multiplier that its guarantee rests on, with the rounding of the noise taken off."""

    run: TrainingRun
    noise_multiplier: float
    sample_rate: float


def train_network(network: Network, training: Cifar10, test: Cifar10, steps: int | None = None) -> Trained:
    """One private run to the row's ε; `steps` cuts it short at the same noise (the budget reached is the run's)."""
    torch.manual_seed(SEED)
    model = network.build()
    rate = min(1.0, network.batch / len(training))
    planned = round(network.epochs / rate)
    # what rounding takes from the multiplier must fit below the budget
    sigma = calibrate_noise(0.998 * network.epsilon, DELTA, rate, planned)
    step = compile_training(
        model,
        network.physical,
        optimizer=SGD(network.learning_rate, network.momentum),
        privacy=DPSGD(sigma, network.max_grad_norm, expected_batch_size=round(rate * len(training))),
    )
    sampler = PoissonSampler(len(training), rate, network.physical)
    evaluate = accuracy_on(network.build(), preprocess(test.images), test.labels)
    with (
        tempfile.TemporaryDirectory() as folder,
        PrivacyLedger(Path(folder, "ledger"), epsilon=network.epsilon, delta=DELTA) as ledger,
    ):
        run = train(
            step, training, sampler, ledger, steps=planned if steps is None else min(steps, planned),
            learning_rate=cosine(network.learning_rate, planned, planned // 20), ema=network.ema, evaluate=evaluate,
            evaluate_every=max(1, planned // 6), charge_every=20, progress=ConsoleProgress(),
        )  # fmt: skip
    return Trained(run, effective_noise_multiplier(step), rate)
