"""verify_program refuses what is not private: mutants of correct programs, an operator of mutation at every site of
several models, each with the reason and the operation to blame."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import shape_of
from privlib.sterling import ProgramPolicy, verify_program
from privlib.sterling.errors import PolicyError
from privlib.sterling.verify import Reason
from tests.sterling.mutants import MODELS, OPERATORS, Mutant, at, changed, first, original
from tests.sterling.programs import POLICY, calls, rewritten


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_every_mutant_is_refused_for_its_reason(
    operator: Callable[[tvm.IRModule], Iterator[Mutant]], model: str
) -> None:
    assert verify_program(original(model), POLICY).accepted
    mutants = list(operator(original(model)))
    assert mutants
    for number, (mutant, reason, blamed) in enumerate(mutants):
        verdict = verify_program(mutant, POLICY)
        assert not verdict.accepted and verdict.reason is reason, f"mutant {number}, {reason}: {verdict}"
        whole = f"{verdict.operation} {verdict.message}"
        assert not blamed or re.search(rf"\b{re.escape(blamed)}\d*\b", whole), f"mutant {number}, {blamed}: {verdict}"
        assert "refused" in str(verdict) and verdict.operation in str(verdict)


def test_there_are_enough_mutants() -> None:
    counts = [len(list(operator(original("mlp")))) for operator in OPERATORS]
    assert sum(counts) >= 120 and min(counts) >= 4


def test_views_measured_one_by_one_are_no_norm() -> None:
    made = original("branches")
    for variable, call in calls(made, "accumulate", "weight_norm"):
        if int(call.attrs["views"]) > 1:
            verdict = verify_program(
                rewritten(made, "accumulate", at(variable, lambda _, v: changed(v, views=1))), POLICY
            )
            assert verdict.reason is Reason.WRONG_NORM


def test_a_product_of_norms_is_taken_at_one_position_only() -> None:
    made = original("mixer")
    found = 0
    for variable, call in calls(made, "accumulate", "weight_norm"):
        if len(shape_of(call.args[0])) == 3:
            mutant = rewritten(made, "accumulate", at(variable, lambda _, v: changed(v, strategy="goodfellow")))
            assert verify_program(mutant, POLICY).reason is Reason.WRONG_NORM
            found += 1
    assert found


def test_what_is_no_training_program_is_refused_not_raised() -> None:
    made = original("mlp")
    hidden = tvm.IRModule({**{each: made[each] for each in ("accumulate", "update")}, "more": made["update"]})
    for wrong in (None, tvm.IRModule({}), tvm.IRModule({"accumulate": made["accumulate"]}), hidden):
        verdict = verify_program(wrong, POLICY)
        assert verdict.reason is Reason.MALFORMED and not verdict.accepted
    for roles in (["input"], ["parameter"] * len(made["accumulate"].params)):
        assert verify_program(rewritten(made, "accumulate", roles=roles), POLICY).reason is Reason.MALFORMED
    broken = rewritten(made, "accumulate", at(first(made, "clip"), lambda _, v: dialect.call("clip", list(v.args))))
    assert verify_program(broken, POLICY).reason is Reason.MALFORMED


def test_an_operator_without_a_rule_is_refused() -> None:
    made = original("mlp")
    variable = first(made, "dense")

    def opaque(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
        return relax.call_pure_packed("os.read", builder.emit(value), ty_args=value.ty)

    verdict = verify_program(rewritten(made, "accumulate", at(variable, opaque)), POLICY)
    assert verdict.reason is Reason.UNKNOWN and "call_pure_packed" in verdict.operation


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0}, {"epsilon": float("inf")}, {"delta": 1.0}, {"sample_rate": 0.0}, {"steps": 0},
        {"physical_batches": 0},
    ],
)  # fmt: skip
def test_policies_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        ProgramPolicy(**{**vars(POLICY), **change})
