"""The loss attack tells the members of a plain model, and those of a private one hardly; and how it is drawn."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from privlib.data import load_cifar10
from privlib.privacy import Accountant, AuditError
from privlib.privacy.membership import Attack, attack_by_loss, dp_bound
from privlib.privacy.pictures_audit import membership_roc
from tests.privacy.conftest import Examples

STEPS = 40


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.Tanh(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def attacks() -> dict[str, Attack]:
    """500 real images trained on, 500 not."""
    members, others = (load_cifar10(split, source="cifar10-sample") for split in ("train", "test"))
    made = {}
    for name, noise, rate in (("plain", 0.0, 0.1), ("private", 25.0, 0.5)):
        made[name] = attack_by_loss(
            small_net(), members, others, noise_multiplier=noise, steps=STEPS, learning_rate=rate
        )
    return made


def test_members_of_a_plain_model_are_told_and_of_a_private_one_hardly(attacks: dict[str, Attack]) -> None:
    plain, private = attacks["plain"], attacks["private"]
    assert plain.epsilon is None and private.epsilon is not None
    assert private.epsilon == pytest.approx(Accountant().compose(25.0, 1.0, STEPS).epsilon(1e-5), rel=0.01)
    assert plain.advantage > 0.4
    assert private.advantage < 0.2 < plain.advantage
    # what the bound allows, and for 500 losses a side the chance of one in a thousand that a rate is further off
    slack = math.sqrt(math.log(2000) / 1000)
    false, true = private.rates
    assert (true <= dp_bound(false, private.epsilon, 1e-5) + 2 * slack).all()


def test_rates_are_counts_below_each_threshold() -> None:
    random = np.random.default_rng(0)
    attack = Attack(random.normal(0, 1, 30), np.round(random.normal(1, 1, 20), 1), None)
    false, true = attack.rates
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    for threshold in (-1.0, 0.0, 0.3, 2.0):
        point = ((attack.other_losses <= threshold).mean(), (attack.member_losses <= threshold).mean())
        assert point in set(zip(false, true, strict=True))
    assert attack.advantage == max(t - f for f, t in zip(false, true, strict=True))


def test_the_bound_is_met_by_randomised_response() -> None:
    """Told rightly with probability e^ε / (1 + e^ε) (and in clear with δ), it is where both lines meet."""
    epsilon, delta = 1.2, 0.01
    wrong = (1 - delta) / (1 + math.exp(epsilon))
    assert dp_bound(np.array([wrong]), epsilon, delta) == pytest.approx(1 - wrong)
    assert dp_bound(np.array([0.0, 1.0]), epsilon, delta).tolist() == [delta, 1.0]


def test_a_bound_is_drawn_for_the_private_model_alone(attacks: dict[str, Attack]) -> None:
    drawing, told = membership_roc(attacks)
    (axes,) = drawing.axes
    labels = {line.get_label(): line for line in axes.get_lines()}
    dashed = [line for line in labels.values() if line.get_linestyle() == "--"]
    assert len(labels) == 4 and len(dashed) == 1
    curve = next(line for label, line in labels.items() if str(label).startswith("private"))
    assert to_hex(dashed[0].get_color()) == to_hex(curve.get_color())
    assert axes.get_xlabel() and axes.get_ylabel()
    assert all(name in told for name in attacks)
    plt.close(drawing)


def test_an_empty_group_is_refused() -> None:
    nobody, somebody = Examples(np.zeros((0, 5), np.float32), np.zeros(0, int)), Examples(np.zeros((1, 5)), np.zeros(1))
    with pytest.raises(AuditError):
        attack_by_loss(nn.Linear(5, 2), nobody, somebody, noise_multiplier=0.0, steps=1, learning_rate=0.1)
