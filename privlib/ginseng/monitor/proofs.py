"""z3 proofs about the transition table: invariants, two-state properties, step noninterference.

Every obligation is the negation of a claim, asked of z3 for one call: `unsat` proves it, `sat` refutes it with a
counterexample, `unknown` counts as failure. Enclaves and regions are any integers, so the claims hold for any number of
them: claims about all enclaves or regions are shown for an arbitrary one, and the invariants assumed of the few indices
that the call names. Assuming fewer instances only makes a proof harder, never wrong.

Noninterference is stated for an observer d (an enclave, or 0 for the host). d sees: who runs; every enclave's phase
and measurement; every region's owner, version and whether it is shared; the content of regions that it owns, that are
shared or free; its own key; the on-chip buffers while it runs or nobody does; replies to its own calls, refusals
included. Two states that look the same to d, given the same call (with any secret arguments, where d is not the
caller), must look the same to d afterwards, and d must get the same reply. What an enclave itself writes into shared
memory (`poke`) is its own decision and thus a public argument. Not in the model: time, power, the accelerator's
arithmetic, that AES-GCM hides what it encrypts.

The monitor's transition model is machine-checked; the code of a real monitor, its hardware and its boot are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from privlib.errors import PrivlibError
from privlib.ginseng.monitor.expr import interpret
from privlib.ginseng.monitor.table import (
    BUILDING,
    DEAD,
    HOST,
    MAPS,
    MAX_VERSION,
    NONE,
    READY,
    REGION_MAPS,
    REPORTED,
    SCALARS,
    TABLE,
    Transition,
)


class ProofError(PrivlibError):
    """A proof was asked for something that the obligation is not."""


EXTEND = z3.Function("H", z3.IntSort(), z3.IntSort(), z3.IntSort())
State = dict[str, Any]


class Symbolic:
    """The table's operations as z3 terms; the measurement chain is an arbitrary function."""

    number = staticmethod(z3.IntVal)
    at = staticmethod(z3.Select)
    both = staticmethod(z3.And)
    either = staticmethod(z3.Or)
    negate = staticmethod(z3.Not)
    extend = staticmethod(EXTEND)

    def eq(self, left: Any, right: Any) -> Any:
        return left == right

    def lt(self, left: Any, right: Any) -> Any:
        return left < right

    def add(self, left: Any, right: Any) -> Any:
        return left + right


SYMBOLIC = Symbolic()


def symbolic_state(suffix: str = "", secret_suffix: str = "") -> State:
    """An arbitrary state; states that differ only in `secret_suffix` agree on everything public."""
    state: State = {}
    for name in (*SCALARS, *MAPS):
        full = name + suffix + (secret_suffix if name in ("content", "key", "scratch") else "")
        state[name] = z3.Array(full, z3.IntSort(), z3.IntSort()) if name in MAPS else z3.Int(full)
    return state


@dataclass(frozen=True)
class Step:
    """One call between two states: `refused` is the number of the guard that refused it, 0 when served."""

    before: State
    after: State
    arguments: Mapping[str, Any]
    refused: Any
    reply: Any

    @property
    def served(self) -> Any:
        """The call was not refused."""
        return self.refused == 0


def step(transition: Transition, before: State, arguments: Mapping[str, Any]) -> Step:
    """The transition as z3 terms over an arbitrary state."""
    refused: Any = z3.IntVal(0)
    for number in range(len(transition.guards), 0, -1):
        condition = interpret(transition.guards[number - 1].condition, SYMBOLIC, before, arguments)
        refused = z3.If(condition, refused, number)
    served = refused == 0
    after = dict(before)
    for update in transition.updates:
        new = interpret(update.value, SYMBOLIC, before, arguments)
        if update.index is not None:
            new = z3.Store(after[update.field], interpret(update.index, SYMBOLIC, before, arguments), new)
        after[update.field] = new
    after = {name: z3.If(served, value, before[name]) for name, value in after.items()}
    reply = z3.If(served, interpret(transition.reply, SYMBOLIC, before, arguments), 0)
    return Step(before, after, arguments, refused, reply)


def invariants(s: State, e: Any, r: Any) -> dict[str, Any]:
    """What holds of every enclave `e` and region `r` in every reachable state."""
    phase, owner = s["phase"], s["owner"]
    return {
        "phases are none, building, ready or dead": z3.And(phase[e] >= NONE, phase[e] <= DEAD),
        "the host is no enclave": phase[HOST] == NONE,
        "who runs is ready": z3.Or(s["running"] == HOST, phase[s["running"]] == READY),
        "on-chip buffers are empty while the host runs": z3.Or(s["running"] != HOST, s["scratch"] == 0),
        "only a ready enclave has a key": z3.Or(s["key"][e] == 0, phase[e] == READY),
        "an owner has existed": z3.Or(owner[r] == HOST, phase[owner[r]] != NONE),
        "a shared region has an owner": z3.Or(s["shared"][r] == 0, owner[r] != HOST),
        "only a living enclave has a measurement": z3.Or(
            s["measurement"][e] == 0, phase[e] == BUILDING, phase[e] == READY
        ),
        "versions stay in range": z3.And(s["version"][r] >= 0, s["version"][r] <= MAX_VERSION),
    }


def two_state(name: str, t: Step, e: Any, r: Any) -> dict[str, Any]:
    """What every step keeps, for every enclave `e` and region `r`."""
    a, b = t.before, t.after
    caller, owner = a["running"], a["owner"][r]
    old, new = a["phase"][e], b["phase"][e]
    same = {field: a[field][r] == b[field][r] for field in REGION_MAPS}
    moves = [(NONE, BUILDING), (BUILDING, READY), (BUILDING, DEAD), (READY, DEAD)]
    region = t.arguments.get("region", z3.IntVal(0))
    private = z3.And(a["owner"][region] != HOST, a["shared"][region] == 0)
    return {
        "an enclave's life goes one way": z3.Or(old == new, *(z3.And(old == x, new == y) for x, y in moves)),
        "a finished measurement is frozen": z3.Or(
            z3.And(old != READY, new != READY), new == DEAD, a["measurement"][e] == b["measurement"][e]
        ),
        "versions never fall": b["version"][r] >= a["version"][r],
        "private content changes only under a new version": z3.Or(
            same["content"],
            owner == HOST,
            a["shared"][r] != 0,
            b["owner"][r] != owner,
            b["version"][r] > a["version"][r],
        ),
        "nobody else changes what an enclave owns": z3.Or(
            owner == HOST,
            owner == caller,
            a["phase"][owner] == DEAD,
            z3.And(same["owner"], same["shared"], same["version"], z3.Or(same["content"], a["shared"][r] != 0)),
        ),
        "a key is set once, by its enclave": z3.Or(
            a["key"][e] == b["key"][e],
            z3.And(e == caller, a["key"][e] == 0),
            z3.And(b["key"][e] == 0, new == DEAD),
        ),
        "an enclave manages nothing": z3.Or(
            caller == HOST,
            z3.And(old == new, same["owner"], same["shared"], a["measurement"][e] == b["measurement"][e]),
        ),
        "an enclave can only give up control": z3.Or(caller == HOST, b["running"] == caller, b["running"] == HOST),
        "replies say what they should": z3.Or(
            z3.Not(t.served),
            z3.And(
                a["phase"][caller] == READY,
                t.reply == EXTEND(EXTEND(a["measurement"][caller], REPORTED), t.arguments["nonce"]),
            )
            if name == "attest"
            else z3.And(z3.Not(private), t.reply == a["content"][region])
            if name == "peek"
            else t.reply == 0,
        ),
    }


def visible(s: State, d: Any, r: Any) -> Any:
    """Whether observer `d` sees region `r`'s content."""
    return z3.Or(s["owner"][r] == HOST, s["owner"][r] == d, s["shared"][r] != 0)


def same_view(s: State, t: State, d: Any, r: Any) -> Any:
    """Two states that agree on everything public look the same to `d` at region `r`."""
    on_chip = z3.Or(s["running"] == HOST, s["running"] == d)
    return z3.And(
        z3.Implies(visible(s, d, r), s["content"][r] == t["content"][r]),
        s["key"][d] == t["key"][d],
        z3.Implies(on_chip, s["scratch"] == t["scratch"]),
    )


@dataclass(frozen=True)
class Obligation:
    """`claim` must follow from `assumed` for one call; `steps` are shown in a counterexample."""

    call: str
    claim: str
    assumed: tuple[Any, ...]
    goal: Any
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Outcome:
    """`verdict` is "proved", "refuted" (z3 has a counterexample) or "unknown"."""

    obligation: Obligation
    verdict: str
    seconds: float


def _arguments(transition: Transition, suffix: str = "") -> dict[str, Any]:
    # Secret arguments differ from run to run, public ones do not.
    return {name: z3.Int(name + (suffix if name in transition.secrets else "")) for name in transition.arguments}


def _named(t: Step, *others: Any) -> list[Any]:
    """The indices at which the invariants are assumed: all that the call names, and those given."""
    caller = t.before["running"]
    indices = [z3.IntVal(HOST), caller, *t.arguments.values(), *others]
    owners = [t.before["owner"][index] for index in (*t.arguments.values(), *others)]
    return [*indices, *owners]


def _assume(t: Step, *others: Any) -> tuple[Any, ...]:
    return tuple(claim for index in _named(t, *others) for claim in invariants(t.before, index, index).values())


def obligations(table: Sequence[Transition] = TABLE) -> Iterator[Obligation]:
    """Every obligation of a table, cheapest first."""
    e, r, d = z3.Int("any_enclave"), z3.Int("any_region"), z3.Int("observer")
    zero: State = {
        name: z3.K(z3.IntSort(), z3.IntVal(0)) if name in MAPS else z3.IntVal(0) for name in (*SCALARS, *MAPS)
    }
    for claim, goal in invariants(zero, e, r).items():
        yield Obligation("(start)", claim, (), goal, ())
    for transition in table:
        t = step(transition, symbolic_state(), _arguments(transition))
        assumed = _assume(t, e, r)
        for claim, goal in (invariants(t.after, e, r) | two_state(transition.name, t, e, r)).items():
            yield Obligation(transition.name, claim, assumed, goal, (t,))
        yield _noninterference(transition, d, r, e)


def _noninterference(transition: Transition, d: Any, r: Any, e: Any) -> Obligation:
    one = step(transition, symbolic_state(secret_suffix="_1"), _arguments(transition, "_1"))
    two = step(transition, symbolic_state(secret_suffix="_2"), _arguments(transition, "_2"))
    caller = one.before["running"]
    assumed = [*_assume(one, d, r, e), *_assume(two, d, r, e)]
    # The two states look the same to d wherever the call or the claim may look.
    assumed += [same_view(one.before, two.before, d, index) for index in _named(one, d, r)]
    assumed += [z3.Implies(caller == d, one.arguments[name] == two.arguments[name]) for name in transition.secrets]
    public = [name for name in MAPS if name not in ("content", "key")]
    goal = z3.And(
        one.after["running"] == two.after["running"],
        *(one.after[name][index] == two.after[name][index] for name in public for index in (r, e)),
        same_view(one.after, two.after, d, r),
        z3.Implies(caller == d, z3.And(one.refused == two.refused, one.reply == two.reply)),
    )
    return Obligation(transition.name, "no observer learns another's secret", tuple(assumed), goal, (one, two))


def check(obligation: Obligation, timeout_seconds: float = 20) -> Outcome:
    """Asks z3 for a counterexample."""
    began = time.perf_counter()
    solver = z3.Solver()
    solver.set("timeout", int(timeout_seconds * 1000))
    solver.add(*obligation.assumed, z3.Not(obligation.goal))
    answer = solver.check()
    seconds = time.perf_counter() - began
    verdict = "proved" if answer == z3.unsat else "refuted" if answer == z3.sat else "unknown"
    return Outcome(obligation, verdict, seconds)


def prove_all(table: Sequence[Transition] = TABLE, progress: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Outcome of every obligation; a table is proved when all verdicts are "proved"."""
    outcomes = []
    for obligation in obligations(table):
        outcomes.append(check(obligation))
        if progress is not None:
            progress(outcomes[-1])
    return outcomes
