"""Membership inference by loss (Yeom et al. 2018, arXiv 1709.01604): who was trained on has a smaller loss.

The attack that is easiest to understand, beside the bound that (ε, δ)-DP puts on every attack. For teaching: an audit
with canaries (`privlib.privacy.audit`) sees far more.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from privlib.compiler import DPSGD, SGD, compile_training
from privlib.data import preprocess
from privlib.privacy.accounting import Epsilon, accounted
from privlib.privacy.errors import AuditError
from privlib.privacy.ledger import PrivacyLedger
from privlib.privacy.loop import LabelledImages, train
from privlib.progress import silent
from privlib.trusted.sampling import PoissonSampler


@dataclass(frozen=True)
class Attack:
    """Losses after training, of the members (n,) and of as yet unseen others (m,); epsilon: what training cost, None
    without noise."""

    member_losses: np.ndarray
    other_losses: np.ndarray
    epsilon: Epsilon | None

    @property
    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates of false and of true positives when everything with a loss of at most t is called a member, for all t;
        both rise from 0 to 1."""
        thresholds = np.unique(np.concatenate([self.member_losses, self.other_losses]))
        false, true = (
            np.searchsorted(np.sort(losses), thresholds, "right") / len(losses)
            for losses in (self.other_losses, self.member_losses)
        )
        return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])

    @property
    def advantage(self) -> float:
        """The largest difference between the two rates, 0 (a guess) to 1 (everyone is told)."""
        false, true = self.rates
        return float((true - false).max())


def dp_bound(false_positives: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
    """The largest rate of true positives at each rate of false ones under (ε, δ)-DP (Kairouz, Oh & Viswanath 2015,
    arXiv 1311.0776): the smaller of e^ε x + δ and 1 − e^−ε (1 − δ − x), at most 1."""
    x = np.asarray(false_positives, float)
    return np.minimum(1.0, np.minimum(np.exp(epsilon) * x + delta, 1 - np.exp(-epsilon) * (1 - delta - x)))


def attack_by_loss(
    model: nn.Module,
    members: LabelledImages,
    others: LabelledImages,
    *,
    noise_multiplier: float,
    steps: int,
    learning_rate: float,
    max_grad_norm: float = 1.0,
    delta: float = 1e-5,
    batch_size: int = 64,
) -> Attack:
    """Train `model` from where it is on all members in every step, and attack what comes out; `model` gets the
    parameters. noise_multiplier 0 trains without clipping and noise.

    Images as `train` takes them. Raises AuditError for an empty group.
    """
    if not len(members.labels) or not len(others.labels):
        raise AuditError("there must be members and others to tell apart")
    privacy = DPSGD(noise_multiplier, max_grad_norm, len(members.labels)) if noise_multiplier else None
    images, _ = _prepared(members)
    step = compile_training(
        model, batch_size, input_shape=images.shape[1:], optimizer=SGD(learning_rate), privacy=privacy
    )
    cost = None
    if privacy is None:
        for _ in range(steps):
            step.step(*_prepared(members))
    else:
        sampler = PoissonSampler(len(members.labels), 1.0, batch_size)
        with tempfile.TemporaryDirectory() as folder, PrivacyLedger(Path(folder) / "ledger", accountant="rdp") as spent:
            train(step, members, sampler, spent, steps=steps, charge_every=steps, progress=silent)
            cost = accounted(spent.events, delta)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in step.parameters().items()})
    return Attack(_losses(model, members), _losses(model, others), cost)


def _prepared(data: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    images = preprocess(data.images) if data.images.dtype == np.uint8 else data.images
    return images, data.labels.astype(np.int64)


def _losses(model: nn.Module, data: LabelledImages) -> np.ndarray:
    images, labels = (torch.from_numpy(np.array(array)) for array in _prepared(data))
    with torch.inference_mode():
        return np.asarray(nn.functional.cross_entropy(model(images), labels, reduction="none").numpy())
