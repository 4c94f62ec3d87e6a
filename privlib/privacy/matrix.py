"""Sampler × noise × accountant: what each cell rests on, or that it is refused. README and notebook show `CELLS`.

Accountants: "pld" and "rdp" of `privlib.privacy`, and "enclave", the NumPy bound of `privlib.trusted.renyi`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from privlib.trusted.events import Event

SAMPLERS = {
    "full": "every example",
    "poisson": "PoissonSampler",
    "truncated_poisson": "PoissonSampler(physical_batches=…)",
    "random_allocation": "RandomAllocationSampler",
    "fixed_size": "FixedSizeSampler",
    "shuffled": "ShuffledSampler",
}
NOISES = {"gaussian": "independent Gaussian, on the grid", "correlated": "correlated between steps (matrix mechanism)"}
ACCOUNTANTS = ("pld", "rdp", "enclave")
EXAMPLES = {
    "full": Event("full", 5.0, 10),
    "poisson": Event("poisson", 1.0, 100, sample_rate=0.01),
    "truncated_poisson": Event("truncated_poisson", 1.0, 100, sample_rate=0.01, dataset_size=10_001, largest_batch=256),
    "random_allocation": Event("random_allocation", 1.0, 10, steps_per_epoch=10, selections=1),
    "fixed_size": Event("fixed_size", 2.0, 100, "replace_one", dataset_size=10_000, largest_batch=100),
    "shuffled": Event("shuffled", 5.0, 100, "replace_one", steps_per_epoch=100),
}


@dataclass(frozen=True)
class Cell:
    """One cell. neighbouring: the relation it is analysed under, None where it is refused; text: the analysis with its
    paper, or why there is none."""

    sampler: str
    noise: str
    accountant: str
    neighbouring: str | None
    text: str

    @property
    def analysed(self) -> bool:
        return self.neighbouring is not None


_ADD, _REPLACE = "add_or_remove_one", "replace_one"
_PLD = "connect-the-dots PLD, Doroshenko et al. 2022 (2207.04380)"
_RDP = "Mironov 2017 (1702.07476)"
_SAMPLED = "Mironov, Talwar & Zhang 2019 (1908.10530)"
_NO_AMPLIFICATION = "one Gaussian an epoch, no amplification (Chua et al. 2024, 2403.17673)"
_GAUSSIAN: dict[str, tuple[tuple[str | None, str], ...]] = {
    "full": ((_ADD, f"Gaussians compose exactly (Balle & Wang 2018, 1805.06530); {_PLD}"), (_ADD, _RDP), (_ADD, _RDP)),
    "poisson": ((_ADD, _PLD), (_ADD, _SAMPLED), (_ADD, _SAMPLED)),
    "truncated_poisson": (
        (_ADD, "the mixture of dp-accounting (2508.15089)"),
        (None, "no Rényi analysis of truncation is known to us; the pld accountant has one"),
        (_ADD, "Poisson's bound, the probability of any truncation (Chernoff) inside δ"),
    ),
    "random_allocation": (
        (_ADD, "Feldman & Shenfeld 2026 (2602.17284), PLD-accounting's geometric method"),
        (None, "dp-accounting has no Rényi account of it; the pld accountant has a tight one"),
        (_ADD, "as if the attacker knew the steps: sound, no amplification"),
    ),
    "fixed_size": (
        (None, "no dominating pair under add or remove, where the size itself would change; use rdp, replace one"),
        (_REPLACE, "Wang, Balle & Kasiviswanathan 2019 (1808.00087)"),
        (None, "not for the enclave: Poisson sampling costs less"),
    ),
    "shuffled": ((_REPLACE, _NO_AMPLIFICATION),) * 3,
}
CELLS = tuple(
    [
        Cell(sampler, "gaussian", accountant, *found)
        for sampler, row in _GAUSSIAN.items()
        for accountant, found in zip(ACCOUNTANTS, row, strict=True)
    ]
    + [
        Cell(sampler, "correlated", accountant, None, "the compiled step has no such noise")
        for sampler in SAMPLERS
        for accountant in ACCOUNTANTS
    ]
)


def markdown(cells: Iterable[Cell] = CELLS) -> str:
    """The matrix as a Markdown table: one row for each sampler and noise, one column for each accountant. A noise that
    is refused throughout is one row."""
    lines = [
        "| sampler | noise | " + " | ".join(ACCOUNTANTS) + " |",
        "|---|---|" + "---|" * len(ACCOUNTANTS),
    ]
    cells = list(cells)
    for noise, described in NOISES.items():
        chosen = [cell for cell in cells if cell.noise == noise]
        if chosen and not any(cell.analysed for cell in chosen) and len({cell.text for cell in chosen}) == 1:
            lines.append(
                f"| any | {described} | " + " | ".join([f"refused: {chosen[0].text}"] * len(ACCOUNTANTS)) + " |"
            )
            continue
        for sampler, name in SAMPLERS.items():
            row = [cell for cell in chosen if cell.sampler == sampler]
            if row:
                shown = [_shown(next(cell for cell in row if cell.accountant == each)) for each in ACCOUNTANTS]
                lines.append(f"| {name} | {described} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _shown(cell: Cell) -> str:
    if cell.neighbouring is None:
        return f"refused: {cell.text}"
    return f"{cell.neighbouring.replace('_', ' ')}: {cell.text}"
