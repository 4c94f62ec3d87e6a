"""Random sequences of actions by everybody, reorganisations among them, against a model of how the market behaves.

After every action: it was taken or refused as the model says, and the escrow holds what it should. At the end: money is
conserved to the wei, each job has at most one final state, budgets are as charged, never above their caps, never below
what granted jobs touched; a model's key was published exactly where the payment was credited.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from privlib.sterling.chain import Account, RevertedError
from privlib.sterling.contracts import market
from privlib.sterling.contracts.budget import cap_words, curve_words, lanes
from privlib.sterling.contracts.market import MarketContracts
from privlib.sterling.contracts.terms import Revocable, Terms
from privlib.trusted.events import Event

from .model import RUNNING, Dataset, Job, Model, Stage
from .revm_chain import RevmChain
from .scene import DELTA, Scene

_SEQUENCES, _SOAK_SEQUENCES, _STEPS = 300, 10_000, 14
_EVENTS = [Event("poisson", 1.0, 2000, sample_rate=0.005)]  # about a third of a budget
_JOBS, _DATASETS = st.integers(0, 3), st.integers(0, 1)
_REQUESTS = st.tuples(
    st.sampled_from(["consumer", "colluder"]),
    st.sampled_from([(0,), (1,), (0, 1)]),
    st.sampled_from([0, 1, 100]),  # bonus
    st.sampled_from([0, 1, 100]),  # basis points
    st.integers(8, 20),  # seconds to grant, and again to complete
)
_WHO = st.sampled_from(["consumer", "colluder", "executor", "provider 0", "provider 1", "stranger"])


@cache
def base() -> tuple[Scene, dict[str, Account]]:
    """A market before anything happened, made once."""
    scene = Scene(RevmChain())
    scene.datasets = [scene.offer(0, epsilon=3.0), scene.offer(1, epsilon=2.0)]
    people = {each.name: each for each in (scene.consumer, scene.executor, scene.stranger, *scene.providers)}
    people["colluder"] = scene.chain.account("colluder")
    return scene, people


def copied() -> Scene:
    """The same market on a copy of its chain."""
    scene = copy.copy(base()[0])
    assert isinstance(scene.chain, RevmChain)
    scene.chain = scene.chain.copied()
    scene.market = MarketContracts.at(scene.chain, scene.market.addresses)
    return scene


class Market(RuleBasedStateMachine):
    """Everybody acts at random, also where they may not."""

    def __init__(self) -> None:
        super().__init__()
        self.scene, self.people = copied(), base()[1]
        self.chain, self.escrow = self.scene.chain, self.scene.market.escrow
        self.started = {name: self.chain.balance(each.address) for name, each in self.people.items()}
        caps = [lanes(cap_words(epsilon, DELTA)) for epsilon in (3.0, 2.0)]
        owners = [each.address for each in self.scene.providers]
        offers = zip(self.scene.datasets, owners, (1000, 700), caps, strict=False)
        datasets = {each: Dataset(owner, price, cap) for each, owner, price, cap in offers}
        self.model = Model(datasets, lanes(curve_words(_EVENTS)), self.people["executor"].address)
        self.terms: list[Terms] = []
        self.first_block = self.chain.head().number
        self.past: dict[int, Model] = {self.first_block: copy.deepcopy(self.model)}

    @property
    def next_time(self) -> int:
        return self.scene.now + 1

    def act(self, allowed: bool, *call: Any, sender: Account, value: int = 0) -> None:
        """Send; the chain must take or refuse it as the model did."""
        try:
            self.escrow.transact(*call, sender=sender, value=value)
            taken = True
        except RevertedError as error:
            assert error.reason, "every refusal says why"
            taken = False
        assert taken == allowed, f"{call[0]}: the chain {'took' if taken else 'refused'} it, the model did not"
        self.remember()

    def remember(self) -> None:
        self.past[self.chain.head().number] = copy.deepcopy(self.model)

    @initialize(requests=st.lists(_REQUESTS, min_size=2, max_size=3))
    def begin(self, requests: list[tuple[str, tuple[int, ...], int, int, int]]) -> None:
        """Every sequence begins with requests, by one or two consumers: the first granted, the second approved once."""
        for each in requests:
            self.request(each)
        for number in (*(0 for _ in requests[0][1]), 1):
            self.go_on(number)

    @rule(request=_REQUESTS)
    def request(self, request: tuple[str, tuple[int, ...], int, int, int]) -> None:
        who, chosen, bonus, points, wait = request
        if len(self.terms) == 4:
            return
        payer, now = self.people[who], self.scene.now
        datasets = [self.scene.datasets[each] for each in chosen]
        prices = [self.model.datasets[each].price for each in datasets]
        changes: dict[str, Any] = {"grant_by": now + wait, "complete_by": now + 2 * wait, "bonus": bonus}
        terms = self.scene.terms(
            datasets, payer=payer.address, curve=curve_words(_EVENTS), executor_basis_points=points, **changes
        )
        fee = -(-(sum(prices) + bonus) * points // 10_000)
        job = Job(payer.address, tuple(datasets), tuple(prices), bonus, fee, now + wait, now + 2 * wait)
        allowed = self.model.request(job, self.next_time)
        self.act(allowed, "request", terms, sender=payer, value=job.deposit)
        if allowed:
            self.terms.append(terms)

    @rule(number=_JOBS)
    def go_on(self, number: int) -> None:
        """What an honest market would do next for a job: the next approval, or the completion."""
        if number >= len(self.terms):
            return
        job = self.model.jobs[number]
        if job.stage == Stage.GRANTED:
            self.complete(number, "executor", True, (1, 1) if job.bonus else (0, 0))
        else:
            left = [index for index, each in enumerate(job.datasets) if each not in job.approved]
            self.approve(number, left[0] if left else 0, True, "stranger")

    @rule(number=_JOBS, index=_DATASETS, honest=st.booleans(), who=_WHO)
    def approve(self, number: int, index: int, honest: bool, who: str) -> None:
        if number >= len(self.terms):
            return
        job = self.model.jobs[number]
        dataset = job.datasets[index % len(job.datasets)]
        sender = self.scene.providers[self.scene.datasets.index(dataset)] if honest else self.people[who]
        allowed = self.model.approve(number, dataset, sender.address, self.next_time)
        position = index % len(job.datasets)
        self.act(allowed, "approve", self.terms[number], position, b"v" * 32, b"", sender=sender)

    @rule(number=_JOBS, who=_WHO, signed=st.booleans(), weights=st.sampled_from([(1, 1), (3, 1), (0, 0), (0, 7)]))
    def complete(self, number: int, who: str, signed: bool, weights: tuple[int, ...]) -> None:
        if number >= len(self.terms):
            return
        chosen = weights[: len(self.model.jobs[number].datasets)]
        signer = None if signed else self.people[who]
        allowed = self.model.complete(number, chosen, signed, self.next_time)
        call = self.scene.completion(self.terms[number], chosen, signer)
        self.act(allowed, "complete", *call, sender=self.people[who])

    @rule(number=_JOBS, who=_WHO)
    def fail(self, number: int, who: str) -> None:
        if number < len(self.terms):
            allowed = self.model.fail(number, self.people[who].address)
            self.act(allowed, "fail", self.terms[number], sender=self.people[who])

    @rule(number=_JOBS, who=_WHO)
    def expire(self, number: int, who: str) -> None:
        if number < len(self.terms):
            allowed = self.model.expire(number, self.next_time)
            self.act(allowed, "expire", self.terms[number], sender=self.people[who])

    @rule(who=_WHO)
    def withdraw(self, who: str) -> None:
        person = self.people[who]
        self.act(self.model.withdraw(person.address), "withdraw", person, sender=person)

    @rule(seconds=st.integers(1, 25))
    def let_time_pass(self, seconds: int) -> None:
        self.chain.advance(seconds)
        self.remember()

    @rule(index=_DATASETS, really=st.integers(0, 3))
    def revoke_dataset(self, index: int, really: int) -> None:
        if not really:
            dataset = self.scene.datasets[index]
            self.scene.market.registry.transact("revoke", dataset, sender=self.scene.providers[index])
            self.model.datasets[dataset].revoked = True
            self.remember()

    @rule(really=st.integers(0, 5))
    def revoke_tcb(self, really: int) -> None:
        if not really:
            tcb = self.scene.evidence.tcb
            self.scene.market.attestation.transact("revoke", Revocable.TCB, tcb, sender=self.scene.admin)
            self.model.session_revoked = True
            self.remember()

    @rule(depth=st.integers(1, 3), really=st.integers(0, 2))
    def reorganise(self, depth: int, really: int) -> None:
        """Another branch wins: the model goes back to what it knew then."""
        kept = self.chain.head().number - depth
        if kept < self.first_block or really:
            return
        self.chain.reorganise(depth)
        self.model = copy.deepcopy(self.past[max(number for number in self.past if number <= kept)])
        self.past = {number: each for number, each in self.past.items() if number <= kept}
        self.terms = self.terms[: len(self.model.jobs)]
        self.remember()

    @invariant()
    def money_is_where_it_should_be(self) -> None:
        assert self.chain.balance(self.escrow.address) == self.model.locked()

    def teardown(self) -> None:
        self.check_jobs()
        self.check_budgets()
        self.check_money()

    def check_jobs(self) -> None:
        finals: dict[bytes, list[Stage]] = {}
        events = self.escrow.events()
        granted = [each["job"] for each in events if each.name == "Granted"]
        for event in events:
            if event.name in ("Completed", "Failed", "Expired"):
                finals.setdefault(event["job"], []).append(Stage[event.name.upper()])
        for terms, job in zip(self.terms, self.model.jobs, strict=True):
            identity = self.scene.job(terms)
            assert self.scene.state(terms).name == job.stage.name
            assert finals.get(identity, []) == ([] if job.stage in RUNNING else [job.stage])
            assert granted.count(identity) == (1 if set(job.datasets) == job.approved else 0)
            credited = [each for each in events if each.name == "Credited" and each["job"] == identity]
            assert sum(each["wei_"] for each in credited) == (0 if job.stage in RUNNING else job.deposit)
            if job.stage in (Stage.FAILED, Stage.EXPIRED):
                assert {each["to"] for each in credited} == {job.payer}

    def check_budgets(self) -> None:
        for dataset, offer in self.model.datasets.items():
            total = lanes(self.scene.total(dataset))
            assert list(total) == offer.charged
            assert all(a >= b for a, b in zip(total, offer.touched, strict=True))
            assert not any(total) or any(a <= cap for a, cap in zip(total, offer.caps, strict=True))

    def check_money(self) -> None:
        paid = dict.fromkeys(self.people, 0)
        for job in self.model.jobs:
            (payer,) = (name for name, each in self.people.items() if each.address == job.payer)
            paid[payer] += job.deposit
        for name, person in self.people.items():
            expected = self.started[name] - paid[name] + self.model.received.get(person.address, 0)
            assert self.chain.balance(person.address) == expected
            assert self.model.credit.get(person.address, 0) == (self.scene.credit(person) if self.terms else 0)


def run(sequences: int, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)) -> None:
    chosen = settings(
        phases=phases,
        max_examples=sequences,
        stateful_step_count=_STEPS,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Market, settings=chosen)


def test_a_few_hundred_sequences() -> None:
    run(_SEQUENCES)


@pytest.mark.soak
def test_ten_thousand_sequences() -> None:
    run(_SOAK_SEQUENCES)


MUTANTS = {
    "released after a revocation": ("    self._still_valid(job_terms)\n    assert self._sig", "    assert self._sig"),
    "approved by anybody": ('    assert actor == approver, "escrow: not the approver"\n', ""),
    "completed by anybody": (') == job_terms.session, "escrow: not signed by the session"', ') != self, "escrow: no"'),
    "charge given back after the grant": ("if self._state(status) == REQUESTED:\n        for", "if True:\n        for"),
    "charge kept although never granted": ("if status & self._bit(i) != 0:\n", "if status == 0:\n"),
    "refund to the executor": ("self._owe(job, job_terms.payer,", "self._owe(job, job_terms.executor,"),
    "a wei left behind": ("                shares[i] += 1\n", "                shares[i] += 0\n"),
    "withdrawn twice": ("    self.credit[msg.sender] = 0\n", ""),
    "a second too late": ("timestamp <= job_terms.complete_by, ", "timestamp < job_terms.complete_by, "),
    "granted by the first approval": ("            granted = False\n", "            granted = True\n"),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_contract_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: each fault, put into the escrow, is found by the same sequences."""
    before, after = MUTANTS[name]
    sources = {each.name: each.read_text() for each in market.SOURCES.glob("*.vy")}
    assert sum(text.count(before) for text in sources.values()) == 1
    for file, text in sources.items():
        (tmp_path / file).write_text(text.replace(before, after))
    monkeypatch.setattr(market, "SOURCES", tmp_path)
    base.cache_clear()
    try:
        with pytest.raises(AssertionError):
            run(_SEQUENCES, (Phase.generate,))
    finally:
        base.cache_clear()
