"""verify_program accepts what is private: all that the compiler makes, and programs that it did not make."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm import relax

from privlib import models
from privlib.compiler import DPSGD, SGD, compile_training, dialect
from privlib.compiler.dialect import shape_of
from privlib.sterling import ProgramPolicy, training_program, verify_program
from privlib.sterling.verify import privacy_cost, program_digest
from tests.compiler.test_differentiate import MixerBlock, Smooth
from tests.sterling.programs import CLASSES, POLICY, Branches, calls, compiled, mlp, program, rewritten

IMAGE = (3, 32, 32)
PLACES = torch.arange(CLASSES)
SUITE: dict[str, Callable[[], Any]] = {
    "small_cnn": lambda: program(models.build("small_cnn"), IMAGE, 8),
    "small_cnn, instantiate": lambda: program(models.build("small_cnn"), IMAGE, strategy="instantiate"),
    "small_cnn, gram": lambda: program(models.build("small_cnn"), IMAGE, strategy="gram"),
    "small_cnn, goodfellow": lambda: program(models.build("small_cnn"), IMAGE, strategy="goodfellow"),
    "small_cnn, views": lambda: program(models.build("small_cnn"), IMAGE, privacy=DPSGD(1.0, 1.0, 64, "flat", 3)),
    "vgg9": lambda: program(models.build("vgg9"), IMAGE, 16),
    "resnet32": lambda: program(models.build("resnet32"), IMAGE, 16, optimizer=SGD(0.1, 0.9, True, 5e-4)),
    "resnet32, views": lambda: program(models.build("resnet32"), IMAGE, privacy=DPSGD(2.0, 0.1, 64, "normalize", 2)),
    "mobilenet": lambda: program(models.build("mobilenet", norm="group"), IMAGE, 8, optimizer=SGD(0.1, 0.9)),
    "branches": lambda: program(Branches(), (3, 8, 8)),
    "branches, views": lambda: program(Branches(), (3, 8, 8), privacy=DPSGD(1.5, 3.0, 8, "normalize", 3)),
    "branches, instantiate": lambda: program(Branches(), (3, 8, 8), strategy="instantiate"),
    "branches, float64": lambda: program(Branches(), (3, 8, 8), precision="float64"),
    "mixer": lambda: program(MixerBlock(), (6, 12)),
    "mixer, gram": lambda: program(MixerBlock(), (6, 12), strategy="gram"),
    "mixer, instantiate": lambda: program(MixerBlock(), (6, 12), strategy="instantiate"),
    "smooth": lambda: program(Smooth(), (3, 16, 16)),
    "mlp": lambda: program(mlp(), (7,), optimizer=SGD(0.1, 0.9, weight_decay=0.01)),
    "mlp, one example": lambda: program(mlp(), (7,), 1),
    "mlp, frozen": lambda: program(_frozen(), (7,)),
    "mlp, smoothed loss": lambda: program(
        mlp(), (7,), loss=lambda z, y: functional.cross_entropy(z, y, reduction="none", label_smoothing=0.1)
    ),
    "mlp, squared loss": lambda: program(
        mlp(), (7,), loss=lambda z, y: ((z - (y[:, None] == PLACES).to(z.dtype)) ** 2).mean(1)
    ),
}


def _frozen() -> nn.Module:
    model = mlp()
    model.get_parameter("0.weight").requires_grad = False
    return model


@pytest.mark.parametrize("name", SUITE)
def test_every_program_of_the_compiler_is_accepted(name: str) -> None:
    made = SUITE[name]()
    verify_program(made, POLICY)  # the accountant's library is loaded
    start = time.process_time()
    verdict = verify_program(made, POLICY)
    assert verdict.accepted, str(verdict)
    assert time.process_time() - start < 2
    assert verdict.noise_multiplier == pytest.approx(verdict.sigma / verdict.sensitivity)
    assert verdict.step_epsilon < verdict.total_epsilon <= POLICY.epsilon


def test_the_program_is_that_of_compile_training() -> None:
    model, privacy, optimizer = mlp(), DPSGD(1.2, 0.5, 8), SGD(0.1, 0.9)
    step = compile_training(model, 4, input_shape=(7,), privacy=privacy, optimizer=optimizer)
    short = compiled(model, (7,), 4, privacy, optimizer)
    assert program_digest(training_program(step)) == program_digest(training_program(short))
    verdict = verify_program(training_program(step), POLICY)
    assert verdict.accepted and verdict.sigma == pytest.approx(0.6) and verdict.sensitivity == pytest.approx(0.5, 1e-4)
    assert verdict.released == ("0.weight", "0.bias", "2.weight", "2.bias")
    text = str(verdict)
    assert all(word in text for word in ("accepted", "0.weight", "sensitivity", "sigma 0.6", "epsilon"))


def test_the_price_is_the_accountants() -> None:
    verdict = verify_program(program(mlp(), (7,)), POLICY)
    cost = privacy_cost(verdict.noise_multiplier, POLICY.sample_rate, POLICY.steps, POLICY.delta)
    assert verdict.total_epsilon == cost.epsilon
    assert all(a <= b for a, b in zip(cost.rdp, cost.rdp[1:], strict=False))
    assert privacy_cost(1.0, 1.0, 10, 1e-5).rdp[0] == pytest.approx(10 * 2 / 2)  # α / (2σ²) a step


# Programs that the compiler did not make.


def shuffled(module: tvm.IRModule, seed: int) -> tvm.IRModule:
    """Bindings in another order, under other names, outside a dataflow block, some of them twice."""
    order = random.Random(seed)
    changed = {}
    for function in ("accumulate", "update"):
        main = module[function]
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        own = {binding.var for binding in bindings}
        values: dict[Any, Any] = {p: relax.Var(f"a{i}", p.ty) for i, p in enumerate(main.params)}
        needs = {b.var: {v for v in relax.analysis.free_vars(b.value) if v in own} for b in bindings}
        builder, waiting, number = relax.BlockBuilder(), list(bindings), 0

        def get(value: Any, values: dict[Any, Any] = values) -> Any:
            if isinstance(value, relax.Tuple):
                return relax.Tuple([get(field) for field in value.fields])
            if isinstance(value, relax.TupleGetItem):
                return relax.TupleGetItem(get(value.tuple_value), value.index)
            if isinstance(value, relax.Call):
                return relax.Call(value.op, [get(arg) for arg in value.args], value.attrs, value.ty_args)
            return values.get(value, value) if isinstance(value, relax.Var) else value

        with builder.function(function, [values[p] for p in main.params], attrs={"roles": list(main.attrs["roles"])}):
            while waiting:
                ready = [b for b in waiting if needs[b.var] <= set(values)]
                binding = order.choice(ready)
                waiting.remove(binding)
                for _ in range(order.choice((1, 1, 2))):
                    values[binding.var] = builder.emit(get(binding.value), f"z{number}")
                    number += 1
            builder.emit_func_output(values[main.body.body])
        changed[function] = builder.get()[function]
    return tvm.IRModule(changed)


@pytest.mark.parametrize("name", ["small_cnn", "small_cnn, views", "branches, views", "mixer", "mlp"])
@pytest.mark.parametrize("seed", [1, 2])
def test_reordered_and_renamed_programs_are_accepted(name: str, seed: int) -> None:
    other = shuffled(SUITE[name](), seed)
    verdict = verify_program(other, POLICY)
    assert verdict.accepted, str(verdict)


class Hand:
    """A logistic regression written by hand, with one thing done otherwise."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def build(self) -> tvm.IRModule:
        o, op, B, D = self.options, relax.op, 6, 5
        f32 = lambda *shape: relax.TensorType(shape, "float32")  # noqa: E731
        x, y = relax.Var("x", f32(B, D)), relax.Var("y", relax.TensorType((B,), "int64"))
        m, w, b = relax.Var("m", f32(B)), relax.Var("w", f32(3, D)), relax.Var("b", f32(3))
        bound = o.get("bound", 0.999)
        builder = relax.BlockBuilder()
        emit = builder.emit
        with builder.function(
            "accumulate", [x, y, m, w, b], attrs={"roles": ["input", "labels", "mask", *["parameter"] * 2]}
        ):
            source = o["before"](emit, x) if "before" in o else x
            z = emit(dialect.call("dense", [source, w, b], bias=True, residual=False, activation="none"))
            g = emit(relax.TupleGetItem(emit(dialect.call("cross_entropy", [z, y], scale=1.0)), 1))
            if "gradient" in o:
                g = o["gradient"](emit, z, y, g)
            two = emit(dialect.call("weight_norm", [source, g], strategy="gram", parameter="w", views=1))
            one = emit(dialect.call("row_squares", [g]))
            clips = o.get("clips", "together")

            def clip(squares: list[Any], norm: float) -> Any:
                made = emit(dialect.call("clip", [*squares, m], clipping=o.get("kind", "flat"), bound=norm))
                return emit(relax.TupleGetItem(made, 1))

            if clips == "together":
                fw = fb = clip([two, one], bound)
            elif clips == "added":
                fw = fb = clip([emit(op.add(two, one))], bound)
            elif clips == "added by the dialect":
                fw = fb = clip([emit(dialect.call("elementwise", [one, two], formula="add"))], bound)
            else:
                share = 0.5**0.5 if clips == "layers, root" else o["share"]
                fw, fb = clip([two], bound * share), clip([one], bound * (1 - share**2) ** 0.5)
            sw = emit(dialect.call("weight_sum", [source, g, fw], views=1))
            sb = emit(dialect.call("factor_sum", [g, fb]))
            sums = o["after"](emit, sw, sb) if "after" in o else [sw, sb]
            builder.emit_func_output(relax.Tuple(sums))
        accumulate = builder.get()["accumulate"]
        builder = relax.BlockBuilder()
        emit = builder.emit
        key = relax.Var("key", relax.TensorType((8,), "uint32"))
        given = [relax.Var(f"s{i}", s.ty) for i, s in enumerate(sums)]
        current = [relax.Var("w", f32(3, D)), relax.Var("b", f32(3))]
        rate = relax.Var("rate", f32())
        roles = ["sum"] * len(given) + ["parameter", "key", "parameter", "learning_rate"]
        noise = {"noise_multiplier": o.get("noise_multiplier", 1.0), "max_grad_norm": 1.0, "grid_step": 2.0**-30}
        with builder.function("update", [*given, current[0], key, current[1], rate], attrs={"roles": roles}):
            noisy = [
                emit(dialect.call("add_gaussian", [s, key], stream=7 - i, **{**noise, **o.get("noise", [{}, {}])[i]}))
                for i, s in enumerate(given)
            ]
            if "join" in o:
                noisy = o["join"](emit, noisy)
            moved = [
                emit(op.subtract(p, emit(op.multiply(emit(op.divide(g, relax.const(8.0, "float32"))), rate))))
                for p, g in zip(current, noisy, strict=True)
            ]
            builder.emit_func_output(relax.Tuple(moved))
        return tvm.IRModule({"accumulate": accumulate, "update": builder.get()["update"]})


def _flat(emit: Any, sw: Any, sb: Any) -> list[Any]:
    return [emit(relax.op.concat([emit(relax.op.reshape(sw, (15,))), sb], axis=0))]


def _unflat(emit: Any, noisy: list[Any]) -> list[Any]:
    w = emit(relax.op.reshape(emit(relax.op.strided_slice(noisy[0], [0], [0], [15])), (3, 5)))
    return [w, emit(relax.op.strided_slice(noisy[0], [0], [15], [18]))]


def _softmax_gradient(emit: Any, z: Any, y: Any, g: Any) -> Any:
    op = relax.op
    one_hot = emit(op.one_hot(y, relax.prim_value(1.0) if hasattr(relax, "prim_value") else 1.0, 0.0, 3, -1))
    return emit(op.subtract(emit(op.nn.softmax(z, axis=-1)), one_hot))


def _normalized(emit: Any, x: Any) -> Any:
    op = relax.op
    centred = emit(op.subtract(x, emit(op.mean(x, axis=[1], keepdims=True))))
    return emit(op.multiply(centred, emit(op.rsqrt(emit(op.sum(emit(op.square(centred)), axis=[1], keepdims=True))))))


const = relax.const
BY_HAND: dict[str, Hand] = {
    "plainly": Hand(),
    "normalized gradients": Hand(kind="normalize"),
    "squares added up first": Hand(clips="added"),
    "squares added by the dialect": Hand(clips="added by the dialect"),
    "each layer clipped to its share": Hand(clips="layers, root"),
    "unequal shares": Hand(clips="layers", share=0.3),
    "one flat vector under one noise": Hand(after=_flat, join=_unflat),
    "sums halved before the noise": Hand(
        after=lambda emit, sw, sb: [emit(relax.op.multiply(s, const(0.5, "float32"))) for s in (sw, sb)]
    ),
    "sums divided, to a higher bound": Hand(
        bound=1.99, after=lambda emit, sw, sb: [emit(relax.op.divide(s, const(2.0, "float32"))) for s in (sw, sb)]
    ),
    "more noise on one layer": Hand(noise=[{"noise_multiplier": 3.0}, {}]),
    "a lower bound than declared": Hand(bound=0.01),
    "a gradient that is not the loss's": Hand(gradient=lambda emit, z, y, g: emit(relax.op.tanh(z))),
    "inputs normalized within an example": Hand(before=_normalized),
    "inputs scaled by a public number": Hand(before=lambda emit, x: emit(relax.op.multiply(x, const(2.0, "float32")))),
    "inputs clamped": Hand(before=lambda emit, x: emit(relax.op.clip(x, -1, 1))),
    "much more noise": Hand(noise_multiplier=50.0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_programs_written_by_hand_are_accepted(name: str) -> None:
    verdict = verify_program(BY_HAND[name].build(), POLICY)
    assert verdict.accepted, str(verdict)


def test_layers_clipped_apart_are_weighed_together() -> None:
    together, apart = (verify_program(BY_HAND[name].build(), POLICY) for name in ("plainly", "unequal shares"))
    assert apart.sensitivity == pytest.approx(together.sensitivity, rel=1e-9)
    noisier = verify_program(BY_HAND["more noise on one layer"].build(), POLICY)
    assert noisier.noise_multiplier == pytest.approx(together.noise_multiplier, rel=1e-6)


def test_a_value_that_nobody_reads_does_no_harm() -> None:
    made = program(mlp(), (7,))
    last, _ = calls(made, "accumulate", "clip")[0]

    def statistics(builder: relax.BlockBuilder, variable: relax.Var, value: relax.Expr) -> None:
        if variable == last:
            builder.emit(relax.op.mean(value.args[0], axis=[0]))

    assert verify_program(rewritten(made, "accumulate", statistics), POLICY).accepted
    assert shape_of(made["accumulate"].params[0]) == (4, 7)


def test_budget_and_noise_are_the_policys() -> None:
    made = program(mlp(), (7,))
    for change, reason in (({"epsilon": 0.5}, "BUDGET"), ({"noise_multiplier": 1.01}, "NOISE_TOO_SMALL")):
        verdict = verify_program(made, ProgramPolicy(**{**vars(POLICY), **change}))
        assert verdict.reason is not None and verdict.reason.name == reason and not verdict.accepted
