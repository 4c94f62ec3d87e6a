"""`privlib bench utility`: its smoke record, from which every ε can be computed again."""

import math
from pathlib import Path
from typing import Any

import dp_accounting
import dp_accounting.pld
import pytest

from benchmarks import utility
from privlib.privacy.published import PUBLISHED
from privlib.suite import bench

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bench.run(ROOT, "utility", "smoke", results=tmp_path_factory.mktemp("results")).data


@pytest.fixture(scope="module")
def metrics(data: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric for metric in data["metrics"]}


def test_the_record_is_whole(data: dict[str, Any], metrics: dict[str, Any]) -> None:
    assert data["status"] == "ok", data["reason"]
    assert len(metrics) == len(data["metrics"])
    assert {figure["file"] for figure in data["figures"]} == {"figures/prior.png", "figures/accuracy.png"}
    assert len(data["datasets"]) == 2 and data["seeds"] == {"synthetic_images": utility.SEED}


def test_every_epsilon_can_be_computed_again_from_its_statement(data: dict[str, Any]) -> None:
    assert [each["subject"] for each in data["guarantees"]] == [
        f"epsilon_{epsilon}/patch_linear" for epsilon in (1, 3, 8)
    ]
    for each, target in zip(data["guarantees"], utility.EPSILONS, strict=True):
        assert each["delta"] == 1e-5 and each["neighbouring_relation"] == "add_or_remove_one"
        assert "every example in every step" in each["sampling"]
        again = dp_accounting.get_epsilon_gaussian(each["noise_multiplier"] / math.sqrt(each["steps"]), each["delta"])
        assert again == pytest.approx(each["epsilon"], rel=1e-9)
        assert each["epsilon"] == pytest.approx(target, rel=1e-5)


def test_tuning_and_noise_are_stated(data: dict[str, Any]) -> None:
    notes = " ".join(data["notes"])
    assert "ε does not cover that choice" in notes and "45,000 to fit, 5,000 to judge" in notes
    assert "fresh key of the operating system" in notes
    for row in utility.ROWS[1:]:
        assert f"{row} is left out here" in notes


def test_accuracies_are_random_with_their_spread(metrics: dict[str, Any]) -> None:
    for epsilon in (1, 3, 8):
        metric = metrics[f"epsilon_{epsilon}/patch_linear/test_accuracy"]
        assert metric["class"] == "random" and metric["n"] == utility.SIZES["smoke"].repetitions
        assert metric["interval"]["low"] <= metric["value"] <= metric["interval"]["high"]


def test_published_results_are_reported(metrics: dict[str, Any]) -> None:
    for result in PUBLISHED:
        metric = metrics[f"epsilon_{result.epsilon:g}/{result.name}/test_accuracy"]
        assert metric["kind"] == "reported" and metric["source"] == result.source


def test_settings_exist_for_every_row_and_budget() -> None:
    assert set(utility.SETTINGS) == set(utility.HEADS) and set(utility.ROWS) == set(utility.LABELS)
    for settings in utility.SETTINGS.values():
        assert len(settings) == len(utility.EPSILONS)
    assert all(len(bars) == len(utility.EPSILONS) for bars in utility.BARS.values())
    assert utility.SIZES["quick"].repetitions >= 5 and utility.SIZES["full"].repetitions >= 5


def test_a_network_end_to_end_states_what_its_run_cost(tmp_path: Path) -> None:
    data = bench.run(ROOT, "utility", "smoke", only=["tanh_cnn"], results=tmp_path).data
    assert data["status"] == "ok", data["reason"]
    metrics = {metric["name"]: metric for metric in data["metrics"]}
    assert metrics["epsilon_3/tanh_cnn/test_accuracy"]["n"] == 1
    (stated,) = data["guarantees"]
    rate = float(stated["sampling"].removeprefix("Poisson, rate "))
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(stated["noise_multiplier"]))
    accountant.compose(event, stated["steps"])
    assert accountant.get_epsilon(stated["delta"]) == pytest.approx(stated["epsilon"], rel=1e-2)
    assert stated["epsilon"] <= 3.0 and stated["steps"] >= utility.SIZES["smoke"].steps
