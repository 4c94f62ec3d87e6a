"""The program that is checked: what a training artifact lets out, written down as two Relax functions.

    accumulate(input, labels, mask, parameters…) → the clipped sum of each trainable parameter
    update(key, sums…, parameters…, [momentum…], learning_rate) → parameters, [momentum]

`accumulate` is the compiler's module at stage `strategies`, before lowering, less its first results (losses, squared
norms, clip factors): those stay with the step driver inside the enclave, whose interface does not give them out.
Everything that a function of the program returns, leaves it: to `update`, or to the world. `update` is what
`compiler.kernels.update` does, at the numbers that the artifact's manifest states. The attribute `roles` of a function
says what the driver passes as each argument.

Who recompiles: the build of the enclave's image, from model and options, with this project's compiler, which is
trusted; it is deterministic, so whoever repeats it gets the same module, the same verdict and the same measurement.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import dtype_of, shape_of


class Compiled(Protocol):
    """What `compile_training` returns, as far as the program needs it."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """privacy, optimizer, roles."""

    def ir(self, stage: str) -> tvm.IRModule:
        """The module after a pass."""


def training_program(step: Compiled) -> tvm.IRModule:
    """The program of a compiled training step, for `verify_program`."""
    facts = step.manifest
    main = step.ir("strategies")["main"]
    builder = relax.BlockBuilder()
    trainable = {name for name, role in facts["roles"].items() if role == "trainable"}
    parameters = [p for p in main.params[3:] if str(p.name) in trainable]
    _emit_accumulate(builder, main, 3 if facts["privacy"] else 2)
    _emit_update(builder, parameters, facts["privacy"], facts["optimizer"])
    return relax.transform.DeadCodeElimination(["accumulate", "update"])(builder.get())


def program_digest(program: tvm.IRModule) -> str:
    """SHA-256 (hex) of the program with all names, attributes and constants: what a training contract names."""
    digest = hashlib.sha256()
    for name in ("accumulate", "update"):
        function = program[name]
        head = [(str(p.name), shape_of(p), dtype_of(p)) for p in function.params]
        digest.update(repr((name, [str(role) for role in function.attrs["roles"]], head)).encode())
        for block in function.body.blocks:
            for binding in block.bindings:
                digest.update(f"{binding.var.name} = {_text(binding.value)}\n".encode())
        digest.update(f"return {_text(function.body.body)}\n".encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    if isinstance(value, relax.Var):
        return str(value.name)
    if isinstance(value, relax.Call):
        attributes = value.attrs.items() if isinstance(value.attrs, tvm.ir.DictAttrs) else [("", str(value.attrs))]
        return f"{value.op.name}({', '.join(map(_text, value.args))}){sorted((k, str(v)) for k, v in attributes)}"
    if isinstance(value, relax.Tuple):
        return f"({', '.join(map(_text, value.fields))})"
    if isinstance(value, relax.TupleGetItem):
        return f"{_text(value.tuple_value)}[{value.index}]"
    if isinstance(value, tvm.ir.Constant) and isinstance(value.value, tvm.runtime.Tensor):
        array = value.value.numpy()
        return f"{array.dtype}{array.shape}{array.tobytes().hex()}"
    return str(value)


def _emit_accumulate(builder: relax.BlockBuilder, main: relax.Function, first: int) -> None:
    values: dict[relax.Var, relax.Expr] = {p: relax.Var(p.name, p.ty) for p in main.params}
    bound: dict[relax.Var, relax.Expr] = {}

    def get(value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([get(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(get(value.tuple_value), value.index)
        if isinstance(value, relax.Call):
            return relax.Call(value.op, [get(arg) for arg in value.args], value.attrs, value.ty_args)
        return values.get(value, value) if isinstance(value, relax.Var) else value

    roles = ["input", "labels", "mask"] + ["parameter"] * (len(main.params) - 3)
    with builder.function("accumulate", [values[p] for p in main.params], attrs={"roles": roles}):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    bound[binding.var] = binding.value
                    values[binding.var] = builder.emit(get(binding.value), str(binding.var.name))
            result = main.body.body
            while isinstance(result, relax.Var):
                result = bound[result]
            output = builder.emit_output(relax.Tuple([get(field) for field in result.fields[first:]]))
        builder.emit_func_output(output)


def _emit_update(
    builder: relax.BlockBuilder,
    parameters: Sequence[relax.Var],
    privacy: Mapping[str, Any] | None,
    optimizer: Mapping[str, Any],
) -> None:
    """g = (sum + noise) / expected batch size; d = g + weight_decay · p; m = momentum · m + d; p − rate · (d or m)."""
    op = relax.op
    dtype = dtype_of(parameters[0])
    momentum, decay = float(optimizer["momentum"]), float(optimizer["weight_decay"])

    def arguments(prefix: str) -> list[relax.Var]:
        return [relax.Var(f"{prefix}{p.name}", relax.TensorType(shape_of(p), dtype)) for p in parameters]

    def number(value: float) -> relax.Expr:
        return relax.const(value, dtype)

    key = relax.Var("key", relax.TensorType((8,), "uint32"))
    rate = relax.Var("learning_rate", relax.TensorType((), dtype))
    sums, current = arguments("sum."), arguments("")
    velocities = arguments("momentum.") if momentum else []
    roles = [
        "key",
        *["sum"] * len(sums),
        *["parameter"] * len(current),
        *["momentum"] * len(velocities),
        "learning_rate",
    ]
    with builder.function("update", [key, *sums, *current, *velocities, rate], attrs={"roles": roles}):
        moved, kept = [], []
        with builder.dataflow():
            for stream, (total, parameter) in enumerate(zip(sums, current, strict=True)):
                g: relax.Expr = total
                if privacy and privacy["noise_multiplier"]:
                    noise = {name: float(privacy[name]) for name in ("noise_multiplier", "max_grad_norm", "grid_step")}
                    g = builder.emit(dialect.call("add_gaussian", [total, key], stream=stream, **noise))
                if privacy:
                    g = builder.emit(op.divide(g, number(float(privacy["expected_batch_size"]))))
                if decay:
                    g = builder.emit(op.add(g, builder.emit(op.multiply(number(decay), parameter))))
                if momentum:
                    velocity = builder.emit(op.add(builder.emit(op.multiply(number(momentum), velocities[stream])), g))
                    kept.append(velocity)
                    ahead = builder.emit(op.multiply(number(momentum), velocity)) if optimizer["nesterov"] else None
                    g = velocity if ahead is None else builder.emit(op.add(g, ahead))
                moved.append(builder.emit(op.subtract(parameter, builder.emit(op.multiply(rate, g)))))
            output = builder.emit_output(relax.Tuple([*moved, *kept]))
        builder.emit_func_output(output)
