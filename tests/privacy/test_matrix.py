"""The matrix is what the code does: each analysed cell gives an ε, each refused one an error."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from privlib.privacy import AccountingError
from privlib.privacy.accounting import accounted
from privlib.privacy.comparison import FixedSizeSampler, ShuffledSampler
from privlib.privacy.matrix import ACCOUNTANTS, CELLS, EXAMPLES, NOISES, SAMPLERS, Cell, markdown
from privlib.trusted import renyi
from privlib.trusted.events import SAMPLINGS, EventError
from privlib.trusted.sampling import SamplingError


def test_every_combination_has_one_cell() -> None:
    cells = [(cell.sampler, cell.noise, cell.accountant) for cell in CELLS]
    assert sorted(cells) == sorted((s, n, a) for s in SAMPLERS for n in NOISES for a in ACCOUNTANTS)
    assert set(SAMPLERS) == set(EXAMPLES) == set(SAMPLINGS)


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell.noise == "gaussian"], ids=lambda cell: f"{cell.sampler}-{cell.accountant}"
)
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_cells_say_what_happens(cell: Cell, relation: str) -> None:
    event = replace(EXAMPLES[cell.sampler], neighbouring=relation)

    def spent() -> float:
        if cell.accountant == "enclave":
            return renyi.epsilon([event], 1e-5)
        return accounted([event], 1e-5, cell.accountant)

    if cell.neighbouring == relation:
        assert 0 < spent() < math.inf
    elif not cell.analysed:
        with pytest.raises((AccountingError, EventError), match="no analysis|no Rényi|no bound"):
            spent()


def test_analysed_cells_name_a_paper() -> None:
    for cell in CELLS:
        if cell.analysed:
            assert re.search(r"\d{4}\.\d{5}\)|Chernoff|knew the steps", cell.text), cell


def test_the_table_shows_every_sampler() -> None:
    table = markdown()
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert all(name in table for name in SAMPLERS.values()) and "refused" in table and "2602.17284" in table


def test_samplers_for_comparison_are_accounted_as_what_they_are() -> None:
    fixed, shuffled = FixedSizeSampler(100, 10, 4), ShuffledSampler(100, 7, 4)
    for _ in range(3):
        batches = fixed.draw()
        chosen = {int(i) for batch in batches for i in batch.indices[batch.mask]}
        assert len(chosen) == 10 and len(batches) == 3
    epoch = [int(i) for _ in range(7) for batch in shuffled.draw() for i in batch.indices[batch.mask]]
    assert sorted(epoch) == list(range(100))
    assert fixed.event(1.0, 5).neighbouring == shuffled.event(1.0, 7).neighbouring == "replace_one"
    shuffled.draw()
    shuffled.restart()
    assert sorted(int(i) for _ in range(7) for b in shuffled.draw() for i in b.indices[b.mask]) == list(range(100))
    with pytest.raises(EventError, match="whole epochs"):
        shuffled.event(1.0, 5)
    with pytest.raises(SamplingError):
        FixedSizeSampler(10, 11, 4)
    with pytest.raises(SamplingError):
        ShuffledSampler(10, 11, 4)


def test_the_readme_shows_the_matrix() -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert markdown() in readme.read_text(encoding="utf-8")
