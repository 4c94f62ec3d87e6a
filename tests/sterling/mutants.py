"""Mutants of correct training programs: an operator of mutation is a generator of mutants, one or more a site."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import tvm
from tvm import relax

from privlib import models
from privlib.compiler import DPSGD, SGD, dialect
from privlib.compiler.dialect import shape_of
from privlib.sterling.verify import Reason
from tests.compiler.test_differentiate import MixerBlock
from tests.sterling.programs import Branches, calls, mlp, program, rewritten

MODELS: dict[str, Callable[[], tvm.IRModule]] = {
    "small_cnn": lambda: program(models.build("small_cnn"), (3, 32, 32)),
    "branches": lambda: program(Branches(), (3, 8, 8), privacy=DPSGD(1.0, 1.0, 8, "flat", 2), optimizer=SGD(0.1, 0.9)),
    "mixer": lambda: program(MixerBlock(), (6, 12), strategy="gram"),
    "mlp": lambda: program(mlp(), (7,), optimizer=SGD(0.1, 0.9, True, 1e-3)),
}
SUMS, NORMS = ("weight_sum", "factor_sum", "kept_sum"), ("weight_norm", "weight_norm_kept", "row_squares")
Mutant = tuple[tvm.IRModule, Reason, str]
OP = relax.op


@cache
def original(name: str) -> tvm.IRModule:
    return MODELS[name]()


def number(value: float, dtype: str = "float32") -> relax.Expr:
    return relax.const(value, dtype)


def at(variable: relax.Var, change: Callable[[relax.BlockBuilder, relax.Call], relax.Expr]) -> Any:
    """A visitor that changes one binding."""
    return lambda builder, each, value: change(builder, value) if each == variable else None


def changed(call: relax.Call, *args: relax.Expr, **attributes: Any) -> relax.Call:
    """The same call with other operands (all of them, if any), or other attributes."""
    name = str(call.op.name).removeprefix("privlib.")
    return dialect.call(name, list(args) or list(call.args), **{**dict(call.attrs.items()), **attributes})


def attributes_changed(variable: relax.Var, **attributes: Any) -> Any:
    return at(variable, lambda _, value: changed(value, **attributes))


def one_more(function: tvm.IRModule, where: str, name: str) -> tvm.IRModule:
    """The value of that name is one more result."""
    return rewritten(function, where, finish=lambda _, results, values: [*results, values[name]])


def mask_of(builder: relax.BlockBuilder, like: relax.Expr, mask: relax.Expr) -> relax.Expr:
    views = shape_of(like)[0] // shape_of(mask)[0]
    return mask if views == 1 else builder.emit(dialect.call("repeat", [mask], views=views))


def parameter(module: tvm.IRModule, function: str, role: str) -> relax.Var:
    main = module[function]
    return next(p for p, each in zip(main.params, main.attrs["roles"], strict=True) if str(each) == role)


def first(module: tvm.IRModule, *names: str) -> relax.Var:
    return calls(module, "accumulate", *names)[0][0]


# accumulate: an operator of mutation is a generator of mutants, one for each site


def a_sum_is_not_clipped(m: tvm.IRModule) -> Iterator[Mutant]:
    for variable, _ in calls(m, "accumulate", *SUMS):

        def change(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
            mask = builder.mask
            return changed(call, *call.args[:-1], mask_of(builder, call.args[-1], mask))

        yield _with_mask(m, variable, change), Reason.NOT_CLIPPED, str(variable.name)


def _with_mask(m: tvm.IRModule, variable: relax.Var, change: Any) -> tvm.IRModule:
    """`change` may read the new function's mask as builder.mask."""
    position = [str(role) for role in m["accumulate"].attrs["roles"]].index("mask")

    def visit(builder: relax.BlockBuilder, each: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if each != variable:
            return None
        builder.mask = visit.parameters[position]  # type: ignore[attr-defined]
        return change(builder, value)

    return _rewritten_with_parameters(m, visit)


def _rewritten_with_parameters(m: tvm.IRModule, visit: Any) -> tvm.IRModule:
    seen: dict[str, relax.Expr] = {}

    def wrapped(builder: relax.BlockBuilder, each: relax.Var, value: relax.Expr) -> relax.Expr | None:
        for arg in getattr(value, "args", []):
            if isinstance(arg, relax.Var):
                seen.setdefault(str(arg.name), arg)
        visit.parameters = [seen.get(str(p.name)) for p in m["accumulate"].params]
        return visit(builder, each, value)

    return rewritten(m, "accumulate", wrapped)


def a_norm_is_left_out(m: tvm.IRModule) -> Iterator[Mutant]:
    (clip, call) = calls(m, "accumulate", "clip")[0]
    sums = calls(m, "accumulate", *SUMS)
    assert len(sums) == len(call.args) - 1
    for i in range(len(sums)):

        def change(_: Any, value: relax.Call, i: int = i) -> relax.Expr:
            return changed(value, *value.args[:i], *value.args[i + 1 :])

        yield rewritten(m, "accumulate", at(clip, change)), Reason.NOT_CLIPPED, str(sums[i][0].name)


def the_norm_is_not_squared(m: tvm.IRModule) -> Iterator[Mutant]:
    clip, call = calls(m, "accumulate", "clip")[0]
    for i in range(len(call.args) - 1):

        def change(builder: relax.BlockBuilder, value: relax.Call, i: int = i) -> relax.Expr:
            args = list(value.args)
            args[i] = builder.emit(OP.sqrt(args[i]))
            return changed(value, *args)

        yield rewritten(m, "accumulate", at(clip, change)), Reason.WRONG_NORM, str(clip.name)


def the_norm_is_of_something_smaller(m: tvm.IRModule) -> Iterator[Mutant]:
    """The norm of half the gradient: the clip then covers another contribution than the sum."""
    sums = calls(m, "accumulate", *SUMS)
    clip, _ = calls(m, "accumulate", "clip")[0]
    for i, (variable, _) in enumerate(sums):

        def change(builder: relax.BlockBuilder, value: relax.Call, i: int = i) -> relax.Expr:
            args = list(value.args)
            norm = builder.lookup_binding(args[i])
            while isinstance(norm, relax.TupleGetItem):
                norm = builder.lookup_binding(norm.tuple_value)
            operands = [builder.emit(OP.multiply(norm.args[-1], number(0.5)))]
            other = changed(norm, *norm.args[:-1], *operands)
            made = builder.emit(other)
            if str(norm.op.name).endswith("kept"):
                made = builder.emit(relax.TupleGetItem(made, 0))
            args[i] = made
            return changed(value, *args)

        yield rewritten(m, "accumulate", at(clip, change)), Reason.NOT_CLIPPED, str(variable.name)


def layers_are_clipped_apart(m: tvm.IRModule) -> Iterator[Mutant]:
    """Each tensor by its own norm, to the whole bound: flat in name only."""
    clip, _ = calls(m, "accumulate", "clip")[0]
    sums = [variable for variable, _ in calls(m, "accumulate", *SUMS)]
    for alone in range(len(sums)):
        state: dict[str, Any] = {}

        def visit(
            builder: relax.BlockBuilder, each: relax.Var, value: relax.Expr, alone: int = alone, state: Any = state
        ) -> relax.Expr | None:
            if each == clip:
                *squares, mask = value.args
                own = builder.emit(changed(value, squares[alone], mask))
                state["own"] = builder.emit(relax.TupleGetItem(own, 1))
                return None
            if each == sums[alone]:
                factors = state["own"]
                views = shape_of(value.args[-1])[0] // shape_of(factors)[0]
                if views > 1:
                    factors = builder.emit(dialect.call("repeat", [factors], views=views))
                return changed(value, *value.args[:-1], factors)
            return None

        yield rewritten(m, "accumulate", visit), Reason.SENSITIVITY, "add_gaussian"


def clipping_comes_after_the_sum(m: tvm.IRModule) -> Iterator[Mutant]:
    for variable, _ in calls(m, "accumulate", *SUMS):

        def change(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
            mask = builder.mask
            total = builder.emit(changed(call, *call.args[:-1], mask_of(builder, call.args[-1], mask)), "total")
            flat = builder.emit(OP.reshape(total, (1, int(np.prod(shape_of(total))))))
            norm = builder.emit(OP.sqrt(builder.emit(OP.sum(OP.square(flat)))))
            factor = builder.emit(OP.minimum(number(1.0), builder.emit(OP.divide(number(1.0), norm))))
            return OP.multiply(total, factor)

        yield _with_mask(m, variable, change), Reason.NOT_CLIPPED, "total"


def the_mask_is_another(m: tvm.IRModule) -> Iterator[Mutant]:
    clip, call = calls(m, "accumulate", "clip")[0]
    examples = shape_of(call.args[-1])[0]
    others: list[Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]] = [
        lambda b, mask: relax.const(np.ones(examples, "float32")),
        lambda b, mask: b.emit(OP.subtract(number(1.0), mask)),
        lambda b, mask: b.emit(OP.add(mask, number(1.0))),
        lambda b, mask: b.emit(OP.maximum(mask, number(0.5))),
        lambda b, mask: b.emit(OP.ones_like(mask)),
    ]
    for other in others:

        def change(builder: relax.BlockBuilder, value: relax.Call, other: Any = other) -> relax.Expr:
            return changed(value, *value.args[:-1], other(builder, value.args[-1]))

        yield rewritten(m, "accumulate", at(clip, change)), Reason.MASK, str(clip.name)


def the_clip_is_weakened(m: tvm.IRModule) -> Iterator[Mutant]:
    clip, call = calls(m, "accumulate", "clip")[0]
    bound = float(call.attrs["bound"])
    for attributes, reason, blamed in (
        ({"clipping": "none"}, Reason.NOT_CLIPPED, str(clip.name)),
        ({"bound": float("inf")}, Reason.NOT_CLIPPED, str(clip.name)),
        ({"bound": 2 * bound}, Reason.SENSITIVITY, "add_gaussian"),
        ({"bound": 1.0}, Reason.SENSITIVITY, "add_gaussian"),  # no room for rounding
    ):
        yield rewritten(m, "accumulate", attributes_changed(clip, **attributes)), reason, blamed


def a_value_of_examples_leaves(m: tvm.IRModule) -> Iterator[Mutant]:
    """Inputs, activations, gradients, norms, factors: whatever belongs to one example, as one more result."""
    main = m["accumulate"]
    names = [str(p.name) for p, role in zip(main.params, main.attrs["roles"], strict=True) if str(role) != "parameter"]
    operators = ("conv2d", "dense", "norm", "elementwise", "position_sums", *NORMS[::2], "weight_norm", "pool2d")
    names += [str(variable.name) for variable, _ in calls(m, "accumulate", *operators)]
    for name in names:
        yield one_more(m, "accumulate", name), Reason.LEAK, name


def losses_and_factors_leave(m: tvm.IRModule) -> Iterator[Mutant]:
    loss, clip = first(m, "cross_entropy"), first(m, "clip")
    for variable, field in ((loss, 0), (loss, 1), (clip, 0), (clip, 1)):

        def finish(_: Any, results: Any, values: Any, name: str = str(variable.name), field: int = field) -> Any:
            return [*results, relax.TupleGetItem(values[name], field)]

        yield rewritten(m, "accumulate", finish=finish), Reason.LEAK, str(variable.name)


def a_statistic_leaves(m: tvm.IRModule) -> Iterator[Mutant]:
    loss = str(first(m, "cross_entropy").name)
    mask = str(parameter(m, "accumulate", "mask").name)
    activations = [str(v.name) for v, _ in calls(m, "accumulate", "conv2d", "dense", "position_sums")]

    def losses(builder: relax.BlockBuilder, values: dict[str, relax.Expr]) -> relax.Expr:
        return builder.emit(relax.TupleGetItem(values[loss], 0))

    def mean(builder: relax.BlockBuilder, values: dict[str, relax.Expr], name: str) -> relax.Expr:
        return builder.emit(OP.mean(values[name], axis=[0]), "statistic")

    def one_row(builder: relax.BlockBuilder, values: dict[str, relax.Expr], name: str) -> relax.Expr:
        return builder.emit(OP.strided_slice(values[name], [0], [0], [1]), "statistic")

    made: list[Callable[[relax.BlockBuilder, dict[str, relax.Expr]], relax.Expr]] = [
        lambda b, v: b.emit(OP.mean(losses(b, v)), "statistic"),
        lambda b, v: b.emit(OP.max(losses(b, v), axis=[0]), "statistic"),
        lambda b, v: b.emit(OP.sum(v[mask]), "statistic"),
        *(partial(mean, name=name) for name in activations),
        *(partial(one_row, name=name) for name in activations),
    ]
    for make in made:

        def finish(builder: relax.BlockBuilder, results: Any, values: Any, make: Any = make) -> Any:
            return [*results, make(builder, values)]

        yield rewritten(m, "accumulate", finish=finish), Reason.MIXED, "statistic"


def examples_are_mixed_on_the_way(m: tvm.IRModule) -> Iterator[Mutant]:
    """Normalized over the batch, or shifted by one row: one example's gradient then depends on the others."""
    for variable, call in calls(m, "accumulate", "conv2d", "dense", "norm"):

        def centred(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            made = builder.emit(value)
            mean = builder.emit(OP.mean(made, axis=[0], keepdims=True), "mixed")
            return OP.subtract(made, mean)

        def turned(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            made = builder.emit(value)
            rows = shape_of(made)[0]
            parts = [builder.emit(OP.strided_slice(made, [0], [a], [b]), "mixed") for a, b in ((1, rows), (0, 1))]
            return OP.concat(parts, axis=0)

        for change in (centred, turned):
            yield rewritten(m, "accumulate", at(variable, change)), Reason.MIXED, "mixed"
        if len(shape_of(call)) == 2 and call.attrs["bias"]:

            def carried(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
                made = builder.emit(value, "made")
                bias = builder.emit(OP.mean(made, axis=[0]), "mixed")
                return changed(value, value.args[0], value.args[1], bias, *value.args[3:])

            yield rewritten(m, "accumulate", at(variable, carried)), Reason.MIXED, "mixed"


def something_public_is_added_up(m: tvm.IRModule) -> Iterator[Mutant]:
    """Once a physical batch: it counts them, and they depend on how many examples were drawn."""
    yield rewritten(m, "accumulate", finish=lambda _, r, v: [*r, number(1.0)]), Reason.LEAK, "accumulate"
    for variable, _ in calls(m, "accumulate", *SUMS):

        def change(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            return OP.add(builder.emit(value), number(1.0))

        yield rewritten(m, "accumulate", at(variable, change)), Reason.NO_NOISE, ""


def arithmetic_is_coarser(m: tvm.IRModule) -> Iterator[Mutant]:
    for variable, _ in calls(m, "accumulate", *SUMS):

        def change(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            operands = [builder.emit(OP.astype(arg, "float16")) for arg in value.args]
            return OP.astype(builder.emit(changed(value, *operands)), "float32")

        yield rewritten(m, "accumulate", at(variable, change)), Reason.MALFORMED, "float16"


def a_branch_is_taken_by_data(m: tvm.IRModule) -> Iterator[Mutant]:
    loss = first(m, "cross_entropy")
    for variable, _ in calls(m, "accumulate", *SUMS):
        losses: dict[str, relax.Expr] = {}

        def visit(
            builder: relax.BlockBuilder,
            each: relax.Var,
            value: relax.Expr,
            it: relax.Var = variable,
            seen: Any = losses,
        ) -> relax.Expr | None:
            if isinstance(value, relax.TupleGetItem) and "mean" not in seen:
                made = builder.lookup_binding(value.tuple_value)
                if str(made.op.name) == str(_call(m, loss).op.name):
                    seen["mean"] = builder.emit(OP.mean(builder.emit(relax.TupleGetItem(value.tuple_value, 0))))
            if each != it:
                return None
            total = builder.emit(value)
            condition = builder.emit(OP.greater(seen["mean"], number(1.0)))
            two = [relax.SeqExpr([], branch) for branch in (total, OP.zeros_like(total))]
            return relax.If(condition, *two)

        yield rewritten(m, "accumulate", visit), Reason.BRANCH, str(variable.name)


def _call(m: tvm.IRModule, variable: relax.Var) -> relax.Call:
    return next(b.value for block in m["accumulate"].body.blocks for b in block.bindings if b.var == variable)


# update


def noise_is_removed(m: tvm.IRModule) -> Iterator[Mutant]:
    sums = [str(variable.name) for variable, _ in calls(m, "accumulate", *SUMS)]
    for variable, call in calls(m, "update", "add_gaussian"):
        blamed = sums[int(call.attrs["stream"])]
        yield rewritten(m, "update", at(variable, lambda _, v: v.args[0])), Reason.NO_NOISE, blamed


def noise_is_too_small(m: tvm.IRModule) -> Iterator[Mutant]:
    for variable, _ in calls(m, "update", "add_gaussian"):
        for attributes, reason in (
            ({"noise_multiplier": 0.999}, Reason.NOISE_TOO_SMALL),
            ({"noise_multiplier": 0.0}, Reason.NOISE_TOO_SMALL),
            ({"noise_multiplier": float("nan")}, Reason.NOISE_TOO_SMALL),
            ({"max_grad_norm": 0.5}, Reason.SENSITIVITY),
            ({"max_grad_norm": float("inf")}, Reason.NOISE_GRID),
            ({"grid_step": 0.0}, Reason.NOISE_GRID),
        ):
            mutant = rewritten(m, "update", attributes_changed(variable, **attributes))
            yield mutant, reason, str(variable.name)


def noise_is_seeded(m: tvm.IRModule) -> Iterator[Mutant]:
    keys: list[Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]] = [
        lambda b, key: relax.const(np.arange(8, dtype="uint32")),
        lambda b, key: b.emit(OP.zeros((8,), "uint32")),
        lambda b, key: b.emit(OP.multiply(key, relax.const(0, "uint32"))),
    ]
    for variable, _ in calls(m, "update", "add_gaussian"):
        for key in keys:

            def change(builder: relax.BlockBuilder, value: relax.Call, key: Any = key) -> relax.Expr:
                return changed(value, value.args[0], key(builder, value.args[1]))

            yield rewritten(m, "update", at(variable, change)), Reason.NOISE_SEEDED, "add_gaussian"
    roles = [str(role) for role in m["update"].attrs["roles"]]
    stale = ["momentum" if role == "key" else role for role in roles]  # the same key at every update
    yield rewritten(m, "update", roles=stale), Reason.NOISE_SEEDED, "add_gaussian"
    yield one_more(m, "update", str(parameter(m, "update", "key").name)), Reason.NOISE_SEEDED, "update"


def noise_is_reused(m: tvm.IRModule) -> Iterator[Mutant]:
    sites = calls(m, "update", "add_gaussian")
    for i, (variable, _) in enumerate(sites):
        other = (i + 1) % len(sites)
        yield (
            rewritten(m, "update", attributes_changed(variable, stream=other)),
            Reason.NOISE_REUSED,
            str(sites[max(i, other)][0].name),
        )


def a_sum_leaves_beside_its_release(m: tvm.IRModule) -> Iterator[Mutant]:
    sums = [str(variable.name) for variable, _ in calls(m, "accumulate", *SUMS)]
    given = [p for p, r in zip(m["update"].params, m["update"].attrs["roles"], strict=True) if str(r) == "sum"]
    for name, blamed in zip([str(p.name) for p in given], sums, strict=True):
        yield one_more(m, "update", name), Reason.NO_NOISE, blamed


def a_sum_is_released_twice_or_larger(m: tvm.IRModule) -> Iterator[Mutant]:
    for variable, _ in calls(m, "update", "add_gaussian"):

        def again(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            return OP.add(builder.emit(value), builder.emit(changed(value, stream=99)))

        def larger(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            return changed(value, builder.emit(OP.multiply(value.args[0], number(10.0))), value.args[1])

        for change in (again, larger):
            yield rewritten(m, "update", at(variable, change)), Reason.SENSITIVITY, "add_gaussian"


def a_sum_passes_beside_the_noise(m: tvm.IRModule) -> Iterator[Mutant]:
    for variable, _ in calls(m, "update", "add_gaussian"):

        def change(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
            silent = builder.emit(OP.multiply(builder.emit(value), number(0.0)))
            return OP.add(value.args[0], silent)

        yield rewritten(m, "update", at(variable, change)), Reason.NO_NOISE, ""


OPERATORS = [
    a_sum_is_not_clipped, a_norm_is_left_out, the_norm_is_not_squared, the_norm_is_of_something_smaller,
    layers_are_clipped_apart, clipping_comes_after_the_sum, the_mask_is_another, the_clip_is_weakened,
    a_value_of_examples_leaves, losses_and_factors_leave, a_statistic_leaves, examples_are_mixed_on_the_way,
    something_public_is_added_up, arithmetic_is_coarser, a_branch_is_taken_by_data, noise_is_removed,
    noise_is_too_small, noise_is_seeded, noise_is_reused,
    a_sum_leaves_beside_its_release, a_sum_is_released_twice_or_larger, a_sum_passes_beside_the_noise,
]  # fmt: skip
