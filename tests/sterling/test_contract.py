"""Training contracts: one file, and whoever builds it gets the same program and the same measurement."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privlib.compiler import SGD
from privlib.sterling import TrainingContract
from privlib.sterling.contracts.budget import UNITS_PER_NAT, lanes
from privlib.sterling.errors import JobRefused
from privlib.sterling.verify.cost import ORDERS
from privlib.trusted import renyi
from tests.sterling.world import contract

BUILD = """
import sys
from pathlib import Path
from typing import Any
from privlib.sterling import TrainingContract
built = TrainingContract.decode(Path(sys.argv[1]).read_bytes()).build()
print(built.measurement.hex(), built.program_digest.hex())
"""


def test_a_contract_comes_back() -> None:
    asked = contract()
    again = TrainingContract.decode(asked.encode())
    assert again == asked and again.digest == asked.digest


@pytest.mark.soak
def test_another_process_builds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing of this one's cache: as a provider does, who has the file alone."""
    path = tmp_path / "contract"
    path.write_bytes(contract().encode())
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    done = subprocess.run([sys.executable, "-c", BUILD, str(path)], capture_output=True, text=True, check=True)
    built = contract().build()
    assert done.stdout.split() == [built.measurement.hex(), built.program_digest.hex()]


def test_the_file_s_model_is_the_consumer_s() -> None:
    step = contract().build().step
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(step.parameters()[name], value.numpy())


def test_what_a_job_costs_on_the_chain_is_never_below_the_bound() -> None:
    built = contract(appraisal_noise=5.0).build()
    events = built.events(120)
    assert [event.sampling for event in events] == ["truncated_poisson", "full"]
    bound = dict(zip(renyi.ORDERS, renyi.rdp(events), strict=True))
    charged = lanes(built.curve(120))
    for order, units in zip(ORDERS, charged, strict=True):
        if order in bound:
            assert units >= bound[order] * UNITS_PER_NAT


@pytest.mark.parametrize("data", [b"", b"contract", bytes(100), b"\xff" * 100])
def test_what_is_no_contract_is_refused(data: bytes) -> None:
    with pytest.raises(JobRefused, match="no training contract"):
        TrainingContract.decode(data)


def test_a_model_that_does_not_load_is_refused() -> None:
    with pytest.raises(JobRefused, match="taken from strangers"):
        replace(contract(), model=b"junk").build()


def test_numbers_out_of_range_are_refused() -> None:
    wrong: tuple[dict[str, Any], ...] = ({"steps": 0}, {"sample_rate": 2.0}, {"physical_batches": 0}, {"steps": "many"})
    for changes in wrong:
        with pytest.raises(JobRefused):
            TrainingContract.decode(replace(contract(), **changes).encode())
    assert replace(contract(), optimizer=SGD(0.2)).digest != contract().digest
