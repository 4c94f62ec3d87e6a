"""Pictures of attacks, in the suite's style."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from privlib.privacy.membership import Attack, dp_bound
from privlib.suite.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PRIVATE, _PLAIN = (BLUE, GREEN, PURPLE), (VERMILION, ORANGE)


def membership_roc(attacks: Mapping[str, Attack]) -> tuple["Figure", str]:
    """True against false positives of each attack, by name; for a private model also the most that its (ε, δ) allows
    any attack, dashed in the same colour; and the diagonal of guessing. With the alternative text."""
    drawing, axes = figure(5.6, 4.4)
    x = np.linspace(0, 1, 401)
    colours = {True: iter(_PRIVATE), False: iter(_PLAIN)}
    for name, attack in attacks.items():
        colour = next(colours[attack.epsilon is not None], GREY)
        axes.step(*attack.rates, where="post", color=colour, label=f"{name}: advantage {attack.advantage:.2f}")
        if attack.epsilon is not None:
            bound = dp_bound(x, attack.epsilon, attack.epsilon.delta)
            label = f"any attack on {name}, ε = {attack.epsilon:.2g}, δ = {attack.epsilon.delta:g}"
            axes.plot(x, bound, color=colour, linestyle="--", label=label)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="guessing")
    axes.set(xlabel="others taken for members (rate)", ylabel="members found (rate)", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right", fontsize=8.5)
    told = "; ".join(
        f"{name}: advantage {attack.advantage:.2f}" + ("" if attack.epsilon is None else f" at {attack.epsilon}")
        for name, attack in attacks.items()
    )
    return drawing, f"Rates of members found against others taken for members, attacks by loss. {told}."
