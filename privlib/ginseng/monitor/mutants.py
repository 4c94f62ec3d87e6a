"""Mutants of the transition table, made by rule: a proof that no wrong table can fail proves nothing.

| rule | applied to |
|---|---|
| guard dropped | every guard |
| owner check negated | every guard about who owns what |
| zeroing omitted | every update that wipes |
| field leaked | every call and secret field: the call's reply becomes that field, at an index the caller chooses |

Each mutant is found (an obligation is refuted) or shown by z3 to do the same as the table in every state that
satisfies the invariants; anything else, `unknown` included, is a survivor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import z3

from privlib.ginseng.monitor.expr import argument, field
from privlib.ginseng.monitor.proofs import Outcome, check, invariants, obligations, step, symbolic_state
from privlib.ginseng.monitor.table import MAPS, SCALARS, SECRETS, TABLE, Transition


@dataclass(frozen=True)
class Mutant:
    """One change of one call."""

    rule: str
    call: str
    change: str
    transition: Transition


@dataclass(frozen=True)
class Judgement:
    """`found` holds the refuted obligations; `equivalent` tells whether z3 showed the mutant to change nothing."""

    mutant: Mutant
    found: tuple[Outcome, ...]
    equivalent: bool

    @property
    def survived(self) -> bool:
        """Neither found nor equivalent: a hole in the obligations."""
        return not self.found and not self.equivalent


def mutants(table: Sequence[Transition] = TABLE) -> Iterator[Mutant]:
    """Every mutant the rules make."""
    for call in table:
        for at, guard in enumerate(call.guards):
            rest = call.guards[:at] + call.guards[at + 1 :]
            yield Mutant("guard dropped", call.name, guard.name, replace(call, guards=rest))
            if guard.owner_check:
                wrong = replace(guard, condition=~guard.condition)
                changed = (*call.guards[:at], wrong, *call.guards[at + 1 :])
                yield Mutant("owner check negated", call.name, guard.name, replace(call, guards=changed))
        for at, update in enumerate(call.updates):
            if update.zeroing:
                rest_updates = call.updates[:at] + call.updates[at + 1 :]
                yield Mutant("zeroing omitted", call.name, str(update), replace(call, updates=rest_updates))
        for secret in SECRETS:
            if secret in SCALARS:
                leaking = replace(call, reply=field(secret))
            else:
                leaking = replace(call, arguments=(*call.arguments, "spied"), reply=field(secret)[argument("spied")])
            yield Mutant("field leaked", call.name, str(leaking.reply), leaking)


def judge(mutant: Mutant, table: Sequence[Transition] = TABLE) -> Judgement:
    """Checks every obligation of the changed call; where none is refuted, asks z3 whether the change matters at all."""
    outcomes = [check(one) for one in obligations([mutant.transition]) if one.call == mutant.call]
    found = tuple(outcome for outcome in outcomes if outcome.verdict == "refuted")
    original = next(call for call in table if call.name == mutant.call)
    return Judgement(mutant, found, not found and _equivalent(original, mutant.transition))


def _equivalent(original: Transition, changed: Transition) -> bool:
    """Same states, replies and service from every state that satisfies the invariants (the refusal's wording aside)."""
    before = symbolic_state()
    arguments = {name: z3.Int(name) for name in changed.arguments}
    left = step(original, before, {name: arguments[name] for name in original.arguments})
    right = step(changed, before, arguments)
    e, r = z3.Int("any_enclave"), z3.Int("any_region")
    solver = z3.Solver()
    solver.set("timeout", 20_000)
    for index in (z3.IntVal(0), before["running"], e, r, *arguments.values()):
        solver.add(*invariants(before, index, index).values())
    same = [left.after[name][index] == right.after[name][index] for name in MAPS for index in (e, r)]
    same += [left.after[name] == right.after[name] for name in SCALARS]
    solver.add(z3.Not(z3.And(*same, left.served == right.served, left.reply == right.reply)))
    return solver.check() == z3.unsat


def judge_all(table: Sequence[Transition] = TABLE) -> list[Judgement]:
    """Every mutant's judgement."""
    return [judge(mutant, table) for mutant in mutants(table)]
