"""A private linear classifier over fixed features: full-batch gradient descent with the compiler's private step.

Every example takes part in every step, so there is no sampling to keep secret or to get wrong: T steps with noise
multiplier σ are together one Gaussian mechanism of noise multiplier σ/√T (Gaussian differential privacy composes
exactly, Dong, Roth & Su 2022, corollary 3.3), whose ε has a closed form (Balle & Wang 2018, arXiv 1805.06530, theorem
8). The divisor of the average is the public number of training examples. Every row has the same norm, so clipping
bounds the residual softmax − label.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import dp_accounting
import dp_accounting.pld
import numpy as np
import torch
from torch import nn

from privlib.compiler import DPSGD, SGD, compile_training
from privlib.errors import PrivlibError
from privlib.progress import Progress, silent
from privlib.trusted import TrainingStep

BATCH = 250
"""Examples of a physical batch: its rows stay in the last-level cache while the step reads them several times."""
CLASSES = 10


class HeadError(PrivlibError):
    """Rows, labels or settings that no private head can be trained with."""


@dataclass(frozen=True)
class Guarantee:
    """(ε, δ) and everything it can be computed from again.

    noise_multiplier σ: standard deviation σ·max_grad_norm on the sum of clipped gradients. sampling,
    neighbouring_relation and accountant are words for the record.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    steps: int
    sampling: str = "full batch: every example in every step"
    neighbouring_relation: str = "add_or_remove_one"
    accountant: str = "analytic Gaussian mechanism (Balle & Wang 2018), dp-accounting"


@dataclass(frozen=True)
class HeadSettings:
    """Full-batch descent from zero weights, Nesterov's momentum as torch.optim.SGD defines it; the last iterate counts.

    Chosen on a split of the training images; ε does not cover that choice.
    """

    learning_rate: float
    steps: int = 80
    max_grad_norm: float = 0.25
    momentum: float = 0.9


def full_batch_guarantee(epsilon: float, delta: float, settings: HeadSettings) -> Guarantee:
    """The smallest noise whose ε, over all steps, is at most `epsilon`. HeadError where none can be found."""
    if not (0 < epsilon < math.inf and 0 < delta < 1 and settings.steps > 0):
        raise HeadError(f"ε must be finite and positive, δ between 0 and 1, steps positive; got {epsilon}, {delta}")
    single = float(dp_accounting.get_sigma_gaussian(epsilon, delta))
    multiplier = single * math.sqrt(settings.steps)
    spent = spent_epsilon(multiplier, settings.steps, delta)
    if not spent <= epsilon * (1 + 1e-6):
        raise HeadError(f"the noise found for ε = {epsilon} gives {spent}; please report it")
    return Guarantee(spent, delta, multiplier, settings.max_grad_norm, settings.steps)


def spent_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """ε of `steps` full-batch steps."""
    return float(dp_accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(steps), delta))


def loss_distribution_epsilon(guarantee: Guarantee) -> float:
    """ε of the same steps by privacy loss distributions: an independent check that is never below the truth."""
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(guarantee.noise_multiplier), guarantee.steps)
    return float(accountant.get_epsilon(guarantee.delta))


def compile_head(features: int, examples: int, guarantee: Guarantee, settings: HeadSettings) -> TrainingStep:
    """The private step of a linear layer without bias over `features` columns, for a set of `examples` rows."""
    model = nn.Linear(features, CLASSES, bias=False)
    nn.init.zeros_(model.weight)
    return compile_training(
        model,
        BATCH,
        input_shape=(features,),
        optimizer=SGD(settings.learning_rate, settings.momentum, nesterov=settings.momentum > 0),
        privacy=DPSGD(guarantee.noise_multiplier, guarantee.max_grad_norm, examples),
    )


def train_heads(
    rows: np.ndarray, labels: np.ndarray, guarantee: Guarantee, settings: HeadSettings, count: int,
    progress: Progress = silent,
) -> Iterator[np.ndarray]:  # fmt: skip
    """`count` independent private heads, one after the other: weights float32 (10, D).

    rows float32 (N, D), labels (N,) in 0 … 9. Each head alone has the guarantee; releasing several of one dataset would
    cost the guarantee of each. The noise's key comes from the operating system, so no two runs are the same.
    """
    if rows.ndim != 2 or len(rows) != len(labels) or not len(rows):
        raise HeadError(f"rows (N, D) and labels (N,) are needed, got {rows.shape} and {labels.shape}")
    classes = labels.astype(np.int64)
    step = compile_head(rows.shape[1], len(rows), guarantee, settings)
    (name,) = step.parameters()
    for repetition in range(count):
        step.load_parameters({name: np.zeros((CLASSES, rows.shape[1]), np.float32)})
        for done in range(settings.steps):
            step.accumulate(rows, classes)
            step.update()
            progress(f"head at ε = {guarantee.epsilon:.3g}, {repetition + 1} of {count}", done + 1, settings.steps)
        yield step.parameters()[name]


def accuracy(weights: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose largest logit is the label's."""
    right = 0
    for start in range(0, len(rows), 2000):
        logits = torch.from_numpy(rows[start : start + 2000]) @ torch.from_numpy(weights).T
        right += int((logits.argmax(1).numpy() == labels[start : start + 2000]).sum())
    return right / len(rows)
