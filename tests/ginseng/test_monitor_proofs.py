"""The monitor's obligations hold; every mutant made by rule is found or changes nothing."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import z3

from privlib.ginseng.monitor.mutants import Judgement, judge_all, mutants
from privlib.ginseng.monitor.proofs import Obligation, ProofError, check, prove_all
from privlib.ginseng.monitor.report import TRUSTED_PARTS, explain, size_table, trusted_table
from privlib.ginseng.monitor.table import SECRETS, TABLE


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    return judge_all()


def test_every_obligation_is_proved_in_time() -> None:
    began = time.perf_counter()
    outcomes = prove_all()
    assert time.perf_counter() - began < 120
    assert [f"{o.obligation.call}: {o.obligation.claim}: {o.verdict}" for o in outcomes if o.verdict != "proved"] == []
    calls = Counter(outcome.obligation.call for outcome in outcomes)
    assert set(calls) == {call.name for call in TABLE} | {"(start)"}
    assert {calls[call.name] for call in TABLE} == {9 + 9 + 1}


def test_assumptions_are_not_contradictory() -> None:
    """A claim that follows from impossible assumptions says nothing: for every call some served step must exist."""
    from privlib.ginseng.monitor.proofs import obligations

    for obligation in obligations():
        if obligation.steps:
            solver = z3.Solver()
            solver.add(*obligation.assumed, *(step.served for step in obligation.steps))
            assert solver.check() == z3.sat, f"{obligation.call}: {obligation.claim}"


def test_unknown_is_a_failure() -> None:
    x, y, z = z3.Ints("x y z")
    hard = Obligation("none", "no sum of cubes is 114", (), x * x * x + y * y * y + z * z * z != 114, ())
    outcome = check(hard, timeout_seconds=0.05)
    assert outcome.verdict == "unknown"
    assert explain(outcome).endswith("unknown")


def test_rules_make_every_mutant() -> None:
    made = Counter(mutant.rule for mutant in mutants())
    guards = [guard for call in TABLE for guard in call.guards]
    assert made["guard dropped"] == len(guards)
    assert made["owner check negated"] == sum(guard.owner_check for guard in guards) > 5
    assert made["zeroing omitted"] == sum(update.zeroing for call in TABLE for update in call.updates) > 5
    assert made["field leaked"] == len(TABLE) * len(SECRETS)


def test_no_mutant_survives(judgements: list[Judgement]) -> None:
    survivors = [f"{j.mutant.rule}: {j.mutant.call}: {j.mutant.change}" for j in judgements if j.survived]
    assert survivors == []


def test_equivalent_mutants_are_the_few_expected(judgements: list[Judgement]) -> None:
    """The on-chip buffers are empty whenever the host calls: wiping them again, or showing them, changes nothing."""
    equivalent = {(j.mutant.rule, j.mutant.change) for j in judgements if j.equivalent}
    assert equivalent == {("zeroing omitted", "scratch = 0"), ("field leaked", "scratch")}
    assert sum(j.equivalent for j in judgements) == 8


def test_noninterference_is_what_finds_leaks_of_memory_and_keys(judgements: list[Judgement]) -> None:
    for judgement in judgements:
        if judgement.mutant.rule == "field leaked" and judgement.mutant.change != "scratch":
            assert "no observer learns another's secret" in {o.obligation.claim for o in judgement.found}


def test_counterexamples_are_readable(judgements: list[Judgement]) -> None:
    reclaim = next(j for j in judgements if j.mutant.change == "content[region] = 0")
    text = explain(reclaim.found[0])
    assert text.startswith("refuted: no observer learns another's secret\nobserver: the host; two runs")
    assert "calls reclaim(region=" in text and "dead" in text and "->" in text
    assert len(text.splitlines()) < 30


def test_proved_obligation_has_no_counterexample() -> None:
    proved = prove_all(TABLE[:1])[0]
    assert explain(proved).endswith("proved")
    with pytest.raises(ProofError, match="not refuted"):
        from privlib.ginseng.monitor.report import _smallest_model

        _smallest_model(proved.obligation)


def test_tables_name_every_trusted_part() -> None:
    assert all(part.part in trusted_table() for part in TRUSTED_PARTS)
    assert "total" in size_table()
