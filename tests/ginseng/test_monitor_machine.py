"""The executable monitor: scenarios, hostile calls, and the same transitions as the z3 terms on random sequences."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import z3

from privlib.ginseng.monitor.expr import concrete_extend
from privlib.ginseng.monitor.machine import Monitor, MonitorError, Reply
from privlib.ginseng.monitor.proofs import step, symbolic_state
from privlib.ginseng.monitor.table import BUILDING, CALLS, DEAD, HOST, MAPS, READY, SCALARS, TABLE, Transition

SEQUENCES, LENGTH = 10_000, 24
INDICES = range(4)


class _Map(dict[int, int]):
    def __missing__(self, key: int) -> int:
        return 0


def to_python(term: Any) -> str:
    """Python source of a z3 term: the second reading of the table, through what the proofs were about."""
    parts = [to_python(child) for child in term.children()]
    match term.decl().kind():
        case z3.Z3_OP_TRUE | z3.Z3_OP_FALSE | z3.Z3_OP_ANUM:
            return str(term).capitalize()
        case z3.Z3_OP_UNINTERPRETED:
            return f"H({', '.join(parts)})" if parts else f"v[{term.decl().name()!r}]"
        case z3.Z3_OP_ITE:
            return f"({parts[1]} if {parts[0]} else {parts[2]})"
        case z3.Z3_OP_EQ:
            return f"({parts[0]} == {parts[1]})"
        case z3.Z3_OP_DISTINCT:
            return f"({parts[0]} != {parts[1]})"
        case z3.Z3_OP_NOT:
            return f"(not {parts[0]})"
        case z3.Z3_OP_AND | z3.Z3_OP_OR:
            word = " and " if term.decl().kind() == z3.Z3_OP_AND else " or "
            return f"({word.join(parts)})"
        case z3.Z3_OP_LT:
            return f"({parts[0]} < {parts[1]})"
        case z3.Z3_OP_GT:
            return f"({parts[0]} > {parts[1]})"
        case z3.Z3_OP_ADD:
            return f"({' + '.join(parts)})"
        case z3.Z3_OP_SELECT:
            return f"{parts[0]}[{parts[1]}]"
        case z3.Z3_OP_STORE:
            return f"M({parts[0]} | {{{parts[1]}: {parts[2]}}})"
    raise AssertionError(f"no Python for {term.decl()}")


def compiled(transition: Transition) -> Callable[[dict[str, Any]], tuple[dict[str, Any], int, int]]:
    """The transition's z3 terms as a function of state and arguments: (state after, refusing guard, reply)."""
    terms = step(transition, symbolic_state(), {name: z3.Int(name) for name in transition.arguments})
    source = {name: compile(to_python(term), name, "eval") for name, term in terms.after.items()}
    refused, reply = (compile(to_python(term), "term", "eval") for term in (terms.refused, terms.reply))

    def run(values: dict[str, Any]) -> tuple[dict[str, Any], int, int]:
        scope = {"v": values, "H": concrete_extend, "M": _Map}
        return {name: eval(code, scope) for name, code in source.items()}, eval(refused, scope), eval(reply, scope)

    return run


def random_call(rng: random.Random, monitor: Monitor) -> tuple[str, dict[str, int]]:
    """Half the time anything at all, half the time something that moves an enclave along."""
    state = monitor.state
    if rng.random() < 0.5:
        name = rng.choice(TABLE).name
    elif state["running"] != HOST:
        name = rng.choice(["load_key", "load", "compute", "store", "attest", "poke", "exit"])
    elif BUILDING in state["phase"].values():
        name = rng.choice(["map", "map", "share", "finalize", "finalize"])
    elif READY in state["phase"].values():
        name = rng.choice(["enter", "enter", "create", "peek", "poke", "destroy"])
    else:
        name = rng.choice(["create", "create", "reclaim", "reclaim"])
    given = {
        "enclave": rng.randrange(3),
        "region": rng.choice(INDICES),
        "value": rng.randrange(100),
        "nonce": rng.randrange(9),
    }
    return name, {argument: given[argument] for argument in CALLS[name].arguments}


def test_random_sequences_equal_the_z3_terms_and_keep_secrets() -> None:
    """10,000 sequences: each call does what its z3 terms say; another choice of secrets does not show."""
    rng = random.Random(7)
    readings = {transition.name: compiled(transition) for transition in TABLE}
    served: dict[str, int] = {transition.name: 0 for transition in TABLE}
    for _ in range(SEQUENCES):
        monitor, twin = Monitor(), Monitor()
        observer = rng.randrange(3)
        for _ in range(LENGTH):
            name, arguments = random_call(rng, monitor)
            caller = monitor.state["running"]
            before: dict[str, Any] = {key: monitor.state[key] for key in SCALARS}
            before |= {key: _Map(monitor.state[key]) for key in MAPS}
            after, refused, value = readings[name](before | arguments)
            reply = monitor.call(name, **arguments)
            transition = CALLS[name]
            assert reply == Reply(transition.guards[refused - 1].name if refused else None, value)
            assert all(monitor.state[key] == after[key] for key in SCALARS)
            assert all(_Map(monitor.state[key]) == after[key] for key in MAPS)
            served[name] += reply.refused is None
            others = {secret: arguments[secret] + 1000 for secret in transition.secrets if caller != observer}
            answer = twin.call(name, **(arguments | others))
            if caller == observer:
                assert answer == reply
            assert view(monitor, observer) == view(twin, observer)
    assert min(served.values()) > 150, served


def view(monitor: Monitor, observer: int) -> list[Any]:
    """What the observer of the proofs sees, written out once more."""
    s = monitor.state
    seen: list[Any] = [s["running"], s["phase"], s["measurement"], s["owner"], s["shared"], s["version"]]
    for region in INDICES:
        if s["owner"].get(region, 0) in (HOST, observer) or s["shared"].get(region, 0):
            seen.append((region, s["content"].get(region, 0)))
    if s["running"] in (HOST, observer):
        seen.append(s["scratch"])
    return [*seen, s["key"].get(observer, 0)]


def built(monitor: Monitor) -> Monitor:
    """Enclave 1 with a private region 0 and a shared region 1, ready."""
    for name, arguments in [
        ("create", {"enclave": 1}),
        ("map", {"enclave": 1, "region": 0, "value": 5}),
        ("share", {"enclave": 1, "region": 1}),
        ("finalize", {"enclave": 1}),
    ]:
        assert monitor.call(name, **arguments).refused is None
    return monitor


def test_life_of_an_enclave() -> None:
    monitor = built(Monitor())
    assert monitor.call("peek", region=0).refused == "the region is free or shared"
    assert monitor.call("poke", region=1, value=9) == Reply(None)
    monitor.call("enter", enclave=1)
    monitor.call("load_key", value=77)
    monitor.call("load", region=0)
    assert monitor.state["scratch"] == 5
    monitor.call("compute", value=3)
    version = monitor.state["version"][0]
    assert monitor.call("store", region=0).refused is None
    assert monitor.state["version"][0] == version + 1
    assert monitor.call("destroy", enclave=1).refused == "only the host manages enclaves"
    monitor.call("exit")
    assert monitor.state["scratch"] == 0
    monitor.call("destroy", enclave=1)
    assert monitor.state["key"][1] == 0 and monitor.state["phase"][1] == DEAD
    assert monitor.call("peek", region=0).refused == "the region is free or shared"
    monitor.call("reclaim", region=0)
    assert monitor.call("peek", region=0) == Reply(None, 0)
    assert monitor.call("create", enclave=1).refused == "the number was never used"


def test_measurement_names_what_was_built_and_in_which_order() -> None:
    def measured(*calls: tuple[str, dict[str, int]]) -> int:
        monitor = Monitor()
        monitor.call("create", enclave=1)
        for name, arguments in calls:
            assert monitor.call(name, enclave=1, **arguments).refused is None
        return int(monitor.state["measurement"][1])

    builds = [
        measured(),
        measured(("map", {"region": 1, "value": 2})),
        measured(("map", {"region": 2, "value": 1})),
        measured(("map", {"region": 1, "value": 3})),
        measured(("share", {"region": 1}), ("share", {"region": 2})),
        measured(("share", {"region": 2}), ("share", {"region": 1})),
        measured(("map", {"region": 1, "value": 2}), ("share", {"region": 2})),
        measured(("share", {"region": 2}), ("map", {"region": 1, "value": 2})),
    ]
    assert len(set(builds)) == len(builds)


def test_attestation_is_fresh_and_only_for_enclaves() -> None:
    monitor = built(Monitor())
    assert monitor.call("attest", nonce=1).refused == "only a running enclave may ask"
    monitor.call("enter", enclave=1)
    first, second = monitor.call("attest", nonce=1), monitor.call("attest", nonce=2)
    assert first.value != second.value and first == monitor.call("attest", nonce=1)


def test_versions_do_not_wrap() -> None:
    monitor = built(Monitor())
    monitor.state["version"][0] = 2**32 - 1
    monitor.call("enter", enclave=1)
    assert monitor.call("store", region=0).refused == "the region has versions left"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("open", {}, "unknown call 'open'"),
        ("create", {}, "create takes \\(enclave\\)"),
        ("create", {"enclave": 1, "region": 2}, "create takes \\(enclave\\)"),
        ("create", {"enclave": "1"}, "must be integers"),
    ],
)
def test_malformed_calls_are_refused_and_change_nothing(name: str, arguments: dict[str, Any], message: str) -> None:
    monitor = Monitor()
    with pytest.raises(MonitorError, match=message):
        monitor.call(name, **arguments)
    assert monitor.state == Monitor().state
