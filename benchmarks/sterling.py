"""Sterling: three hospitals train one classifier through the market, from upload to delivered model, on both chains;
gas by action, and its cost; jobs admitted before a budget is exhausted; the program check; refusals; silence."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from privlib.data import Cifar10
from privlib.privacy import calibrate_noise
from privlib.sterling import AnvilChain, Delivery, EmbeddedChain, ProgramPolicy, gas, hostile, verify_program
from privlib.sterling.chain import Chain, NodeError
from privlib.sterling.exhaustion import exhaust
from privlib.sterling.gas import Use
from privlib.sterling.story import HOSPITALS, PLANS, SEED, Story
from privlib.suite import record, stats
from privlib.trusted import renyi
from privlib.trusted.events import Event

VERSION = "1"
QUOTE_BAR, LIFE_CYCLE_BAR = 100_000, 600_000
"""Gas: what registering a quote, and the life of a job of one provider, may use."""
VERIFICATION_BAR_SECONDS = 2.0
ASSUMED_GWEI = {"rollup": 0.01, "mainnet_quiet": 1.0, "mainnet_busy": 20.0}
"""Gas prices that costs are modelled at: assumptions, in gwei."""
BUDGET, DELTA = 8.0, 1e-5
AUTOMATA = "Automata DCAP Attestation, README.md of github.com/automata-network/automata-dcap-attestation"
PUBLISHED = {"automata_all_on_chain": 4_000_000, "automata_risc_zero": 351_000, "automata_sp1_groth16": 325_000}
"""Gas of a quote's check elsewhere; the first is the lower end of "~4-5M"."""
LIFE = ("escrow.request", "escrow.approve", "escrow.complete")
CHECKED = {"smoke": ("small_cnn",), "quick": ("small_cnn", "vgg9"), "full": ("small_cnn", "vgg9", "resnet32")}


def run(profile: str, rows: Sequence[str]) -> None:
    """Record `rows`."""
    record.seed("initial_weights_and_labels", SEED)
    for row in rows:
        start = time.monotonic()
        _CASES[row](profile)
        print(f"{row}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def embedded(profile: str) -> None:
    """The whole story on the chain in this process."""
    with EmbeddedChain() as chain:
        _end_to_end("embedded", chain, profile)


def anvil(profile: str) -> None:
    """The whole story on a real node."""
    try:
        chain = AnvilChain()
    except NodeError as error:
        record.note(f"the row anvil is left out, there is no node: {error}")
        return
    with chain:
        _end_to_end("anvil", chain, profile)


def budget(profile: str) -> None:
    """Equal jobs, charged to the ledger contract until it refuses, beside each job's ε added up."""
    plan = PLANS[profile]
    jobs = {
        "the_storys_job": plan.contract().build().events(sum(plan.images)),
        "job_of_epsilon_1": _job_of(1.0),
        "job_of_epsilon_0.3": _job_of(0.3),
    }
    for row, events in jobs.items():
        found = exhaust(EmbeddedChain(), events, BUDGET, DELTA)
        _counted(f"{row}/renyi_on_chain/jobs_admitted", found.admitted)
        _counted(f"{row}/epsilon_added_up/jobs_admitted", found.admitted_naively)
        record.metric(f"{row}/renyi_on_chain/epsilon_when_refused", found.on_chain[-1], "", nature="deterministic")
        record.metric(f"{row}/one_job/epsilon", renyi.epsilon(events, DELTA), "", nature="deterministic")
    record.note(f"jobs are admitted against a budget of ε = {BUDGET:g} at δ = {DELTA:g} for one dataset")


def verification(profile: str) -> None:
    """Seconds that the check of a program takes, for the suite's networks; one that leaks must be refused."""
    from privlib import models
    from privlib.compiler import DPSGD, SGD, compile_training
    from privlib.sterling import training_program

    policy = ProgramPolicy(1.0, BUDGET, DELTA, 0.01, 100)
    for name in CHECKED[profile]:
        step = compile_training(models.build(name), 16, optimizer=SGD(0.1), privacy=DPSGD(1.0, 1.0, 64))  # type: ignore[arg-type]
        program = training_program(step)
        for column, checked in (("correct", program), ("leaking", hostile.leaking_program(program))):
            seconds, verdicts = [], []
            for _ in range(3 if profile == "smoke" else 7):
                start = time.perf_counter()
                verdicts.append(verify_program(checked, policy))
                seconds.append(time.perf_counter() - start)
            taken = record.samples(f"{name}/{column}/verification", seconds, "s", higher_is_better=False)
            _counted(f"{name}/{column}/accepted", int(all(each.accepted for each in verdicts)))
            if taken > VERIFICATION_BAR_SECONDS:
                record.note(f"{name}: the check took {taken:.1f} s, above its bar of {VERIFICATION_BAR_SECONDS:g} s")


def published(profile: str) -> None:
    """What others report for a quote checked on a chain."""
    for column, used in PUBLISHED.items():
        record.metric(
            f"attestation_register/{column}/gas", used, "gas", nature="deterministic", kind="reported",
            higher_is_better=False, source=AUTOMATA,
        )  # fmt: skip
    record.note(
        "the others' checks cover certificates, revocation lists and TCB levels too; here the administrator checks "
        "those of a platform once, and the contract checks signatures from the platform's key down"
    )


_CASES: dict[str, Callable[[str], None]] = {
    "embedded": embedded,
    "anvil": anvil,
    "budget": budget,
    "verification": verification,
    "published": published,
}
ROWS = tuple(_CASES)


def _end_to_end(column: str, chain: Chain, profile: str) -> None:
    from privlib import data

    plan = PLANS[profile]
    train, test = data.load_cifar10("train"), data.load_cifar10("test")
    record.dataset(train)
    with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder, Story(folder, plan, chain) as story:
        uses = story.chain.uses
        start = time.perf_counter()
        story.upload(train)
        uploaded = len(uses)
        bid = story.bid()
        delivery = story.release(story.request(bid))
        _seconds(f"end_to_end/{column}/upload_to_model", time.perf_counter() - start)
        for step, taken in story.seconds.items():
            _seconds(f"{step}/{column}/step_time", taken)
        joint = uses[uploaded:]
        refused = hostile.refused_quotes(story.market)
        deposit, back = story.silence(story.request(bid))
        _gas(column, story, f"job_of_{len(HOSPITALS)}_providers", joint)
        refusals = [reason != hostile.ACCEPTED for reason in refused.values()]
        _counted(f"quotes_that_prove_nothing/{column}/refused", 100 * sum(refusals) / len(refusals), "%")
        _counted(f"silence/{column}/refund_over_deposit", 100 * back / deposit, "%")
        _delivered(column, story, delivery, test)

    with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder, Story(folder, PLANS["smoke"], chain) as story:
        # Another market, so that this is its dataset's first job too; gas does not depend on how much data there is.
        story.upload(train)
        uploaded = len(story.chain.uses)
        story.release(story.request(story.bid(), hospitals=HOSPITALS[:1]))
        _job_gas(column, story, "job_of_1_provider", story.chain.uses[uploaded:])


def _gas(column: str, story: Story, job: str, uses: Sequence[Use]) -> None:
    """Of one transaction of each action (the median one), and of the job."""
    actions = gas.by_action(story.chain.uses, story.market.contracts)
    for action, found in actions.items():
        middle = sorted(found, key=lambda use: use.gas)[len(found) // 2]
        _used(f"{action.replace('.', '_')}/{column}/gas", [middle], n=len(found))
    most = max(use.gas for use in actions["attestation.register"])
    if most >= QUOTE_BAR:
        record.note(f"{column}: registering a quote used {most:,} gas, its bar is {QUOTE_BAR:,}")
    _job_gas(column, story, job, uses)


def _job_gas(column: str, story: Story, job: str, uses: Sequence[Use]) -> None:
    """Of a job's life in the escrow, of everything around it, and what that costs."""
    by_action = gas.by_action(uses, story.market.contracts)
    life = [use for action in LIFE for use in by_action[action]]
    _used(f"{job}/{column}/life_cycle_gas", life)
    _used(f"{job}/{column}/gas_with_attestation_policy_and_log", uses)
    if (total := sum(use.gas for use in life)) >= LIFE_CYCLE_BAR:
        record.note(f"{column}, {job}: the life of the job used {total:,} gas, its bar is {LIFE_CYCLE_BAR:,}")
    for name, gwei in ASSUMED_GWEI.items():
        _used(f"{job}/{name}_at_{gwei:g}_gwei/cost_from_{column}", uses, gwei=gwei)


def _used(name: str, uses: Sequence[Use], n: int = 1, gwei: float | None = None) -> None:
    """Gas of transactions, or what it costs at a gas price, and how far another run may differ."""
    scale = 1.0 if gwei is None else gas.cost(1, gwei)
    value, spread = scale * sum(use.gas for use in uses), scale * sum(use.spread for use in uses)
    record.metric(
        name, value, "gas" if gwei is None else "ETH", nature="random", higher_is_better=False, n=n,
        kind="measured" if gwei is None else "modelled",
        interval=stats.Interval(value - spread, value + spread, gas.LEVEL, gas.METHOD),
    )  # fmt: skip


def _delivered(column: str, story: Story, delivery: Delivery, test: Cifar10) -> None:
    """The model, its certificate's claims, and which enclave made it."""
    plan, (claim, *_) = story.plan, delivery.verified.datasets
    record.privacy(
        epsilon=claim.epsilon, delta=DELTA, accountant="the enclave's Rényi bound", subject=f"end_to_end/{column}",
        neighbouring_relation="add_or_remove_one", sampling="truncated Poisson, and one full batch for the appraisal",
        noise_multiplier=plan.noise_multiplier, max_grad_norm=1.0, steps=plan.steps,
    )  # fmt: skip
    record.enclave(measurement=story.contract.build().measurement.hex(), platform="simulated")
    right, count = story.accuracy(delivery, test)
    record.metric(f"delivered_model/{column}/test_accuracy", right / count, "", nature="random", higher_is_better=True)


def _job_of(epsilon: float) -> list[Event]:
    """A training job of 100 steps over a hundredth of the data each, with the noise that this ε needs."""
    noise = calibrate_noise(epsilon, DELTA, 0.01, 100, accountant="rdp")
    return [Event("poisson", noise, 100, sample_rate=0.01)]


def _counted(name: str, value: float, unit: str = "") -> None:
    record.metric(name, value, unit, nature="deterministic", higher_is_better=True)


def _seconds(name: str, value: float) -> None:
    record.metric(name, value, "s", nature="timing", higher_is_better=False)
