"""`privlib bench sterling`: its smoke record, on the chain in the process; the ledger against another accountant."""

from pathlib import Path
from typing import Any

import dp_accounting
import dp_accounting.rdp
import numpy as np
import pytest

from benchmarks import sterling
from privlib import data as datasets
from privlib.sterling import EmbeddedChain, Market, hostile
from privlib.sterling.exhaustion import exhaust
from privlib.sterling.gas import MeteredChain, by_action, cost
from privlib.sterling.pictures import SENDERS
from privlib.sterling.story import HOSPITALS, PLANS, Story
from privlib.suite import bench
from privlib.trusted.events import Event

ROOT = Path(__file__).resolve().parents[1]
ROWS = [row for row in sterling.ROWS if row != "anvil"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bench.run(ROOT, "sterling", "smoke", only=ROWS, results=tmp_path_factory.mktemp("results")).data


@pytest.fixture(scope="module")
def metrics(data: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric for metric in data["metrics"]}


def value(metrics: dict[str, Any], name: str) -> float:
    return float(metrics[name]["value"])


def test_the_record_is_whole(data: dict[str, Any], metrics: dict[str, Any]) -> None:
    assert data["status"] == "ok", data["reason"]
    assert len(metrics) == len(data["metrics"]) and len(data["datasets"]) == 1
    assert data["seeds"] and data["enclave"]["platform"] == "simulated" and len(data["enclave"]["measurement"]) == 64
    (stated,) = data["guarantees"]
    assert stated["subject"] == "end_to_end/embedded" and 0 < stated["epsilon"] <= sterling.BUDGET


def test_every_action_of_a_job_has_its_gas(metrics: dict[str, Any]) -> None:
    for action in SENDERS:
        metric = metrics[f"{action.replace('.', '_')}/embedded/gas"]
        assert (metric["kind"], metric["class"], metric["unit"]) == ("measured", "random", "gas")
        assert 21_000 < metric["interval"]["low"] < metric["value"] < metric["interval"]["high"] < 400_000
        assert metric["interval"]["high"] - metric["interval"]["low"] < 300


def test_a_quote_and_the_life_of_a_job_stay_below_their_bars(data: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Three providers are above the bar of one, and the record says so."""
    assert value(metrics, "attestation_register/embedded/gas") < sterling.QUOTE_BAR
    one, three = (
        value(metrics, f"{job}/embedded/life_cycle_gas") for job in ("job_of_1_provider", "job_of_3_providers")
    )
    assert one < sterling.LIFE_CYCLE_BAR < three < len(HOSPITALS) * one
    notes = [note for note in data["notes"] if "above its bar" in note or "its bar is" in note]
    assert [note for note in notes if "gas" in note] == [
        f"embedded, job_of_3_providers: the life of the job used {three:,.0f} gas, its bar is 600,000"
    ]


def test_costs_are_modelled_from_the_measured_gas(metrics: dict[str, Any]) -> None:
    gas = value(metrics, "job_of_3_providers/embedded/gas_with_attestation_policy_and_log")
    for name, gwei in sterling.ASSUMED_GWEI.items():
        metric = metrics[f"job_of_3_providers/{name}_at_{gwei:g}_gwei/cost_from_embedded"]
        assert metric["kind"] == "modelled" and metric["unit"] == "ETH"
        assert metric["value"] == pytest.approx(gas * gwei / 1e9)
    assert cost(1_000_000, 20.0) == pytest.approx(0.02)


def test_what_others_report_has_its_source(metrics: dict[str, Any]) -> None:
    for column, gas in sterling.PUBLISHED.items():
        metric = metrics[f"attestation_register/{column}/gas"]
        assert (metric["value"], metric["kind"]) == (gas, "reported") and "automata" in metric["source"]


def test_what_must_be_refused_is_and_silence_costs_nothing(metrics: dict[str, Any]) -> None:
    assert value(metrics, "quotes_that_prove_nothing/embedded/refused") == 100
    assert value(metrics, "silence/embedded/refund_over_deposit") == 100
    assert value(metrics, "small_cnn/correct/accepted") == 1 and value(metrics, "small_cnn/leaking/accepted") == 0


def test_the_ledger_admits_more_jobs_than_a_sum(metrics: dict[str, Any]) -> None:
    for row in ("the_storys_job", "job_of_epsilon_1", "job_of_epsilon_0.3"):
        on_chain, added = (
            value(metrics, f"{row}/{column}/jobs_admitted") for column in ("renyi_on_chain", "epsilon_added_up")
        )
        assert on_chain > added >= 1
        assert value(metrics, f"{row}/renyi_on_chain/epsilon_when_refused") <= sterling.BUDGET


def test_what_was_admitted_stays_within_the_budget_by_another_accountant() -> None:
    """And not by far: twice as many would exceed it."""
    event, epsilon, delta = Event("poisson", 1.5, 50, sample_rate=0.05), 4.0, 1e-5
    found = exhaust(EmbeddedChain(), [event], epsilon, delta)

    def spent(jobs: int) -> float:
        accountant = dp_accounting.rdp.RdpAccountant()
        inner = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.5))
        accountant.compose(inner, jobs * event.steps)
        return float(accountant.get_epsilon(delta))

    assert spent(found.admitted) <= epsilon < spent(2 * found.admitted)
    assert found.on_chain == tuple(sorted(found.on_chain)) and found.on_chain[-1] <= epsilon
    assert found.added_up[found.admitted_naively - 1] <= epsilon < found.added_up[found.admitted_naively]


def test_the_meter_counts_every_transaction_once() -> None:
    chain = MeteredChain(EmbeddedChain())
    sender, to = chain.account("sender"), chain.account("receiver").address
    receipts = [chain.send(sender, to, data) for data in (b"", b"data")]
    assert [use.gas for use in chain.uses] == [receipt.gas_used for receipt in receipts]
    assert chain.uses[0].gas == 21_000 < chain.uses[1].gas
    assert all(chain.receipt(each.transaction) == each for each in receipts)


def test_what_random_bytes_may_change_covers_what_they_change(tmp_path: Path) -> None:
    chain = MeteredChain(EmbeddedChain())
    market, random = Market.open(tmp_path, chain), np.random.default_rng(0)
    for _ in range(100):
        key = [int.from_bytes(random.bytes(32), "big") for _ in range(2)]
        trusted = (*key, random.bytes(32))
        market.contracts.attestation.transact("trust_platform", *trusted, sender=market.administrator)
    first, *others = chain.uses[-100:]
    differences = {use.gas - first.gas for use in others}
    assert len(differences) > 2 and all(abs(each) <= first.spread for each in differences) and first.spread < 60


def test_actions_are_named_by_contract_and_function(tmp_path: Path) -> None:
    chain = MeteredChain(EmbeddedChain())
    market = Market.open(tmp_path, chain)
    found = by_action(chain.uses, market.contracts)
    assert list(found) == ["ledger.bind", "attestation.trust_platform"]
    deployments = [use for use in chain.uses if use.to is None]
    assert len(deployments) == 6 and len(chain.uses) == 8


def test_hospitals_have_what_the_plan_says() -> None:
    plan, cifar = PLANS["smoke"], datasets.load_cifar10("train")
    shares = plan.shares(cifar)
    assert {name: len(labels) for name, (_, labels) in shares.items()} == dict(zip(HOSPITALS, plan.images, strict=True))
    right = {}
    start = 0
    for name, (images, labels) in shares.items():
        assert images.shape[1:] == (3, 8, 8) and images.dtype == np.float32 and labels.dtype == np.int64
        right[name] = float((labels == cifar.labels[start : start + len(labels)]).mean())
        start += len(labels)
    assert right["north"] == right["river"] == 1 and right["hill"] < 0.5


def test_an_image_in_the_clear_would_be_found(tmp_path: Path) -> None:
    cifar, plan = datasets.load_cifar10("train"), PLANS["smoke"]
    story = Story(tmp_path, plan)
    story.market.store.put(b"x" * 4096)
    assert story.exposed(cifar) == 0
    images, _ = plan.shares(cifar)["river"]
    story.market.store.put(b"header" + images[:1].tobytes())
    assert story.exposed(cifar) == 1


def test_the_leaking_program_differs_in_one_released_sum() -> None:
    built = PLANS["smoke"].contract().build()
    leaking = hostile.leaking_program(built.program)
    before, after = ([str(each.ty) for each in program["accumulate"].params] for program in (built.program, leaking))
    assert before == after and leaking["update"] is not None
    assert "outputs_of_all_examples" in str(leaking["accumulate"])
    assert "outputs_of_all_examples" not in str(built.program["accumulate"])
