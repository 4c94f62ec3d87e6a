"""The walk over one function of a training program: what is known of each value, by the rules beside it."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from privlib.sterling.verify import clipping, data_path, plain, release
from privlib.sterling.verify.kinds import Fields, Key, Kind, Mask, PerExample, Public, Refusal, Value
from privlib.sterling.verify.verdict import Reason

_DIALECT = data_path.OPERATORS | clipping.OPERATORS | {"add_gaussian"}


class Interpreter:
    """One function: its values by variable, and its releases."""

    def __init__(
        self, name: str, function: relax.Function, roles: tuple[str, ...], examples: int = 0, dtype: str = ""
    ) -> None:
        self.name, self.function, self.examples, self.dtype = name, function, examples, dtype
        attributes = dict(function.attrs.items()) if function.attrs else {}
        self.roles = [str(role) for role in attributes.get("roles", ())]
        if len(self.roles) != len(function.params) or not set(self.roles) <= set(roles):
            raise Refusal(
                Reason.MALFORMED, name, f"its attribute roles must give each argument one of {', '.join(roles)}"
            )
        self.values: dict[relax.Var, Value | Fields] = {}
        self.numbers: dict[Hashable, int] = {}
        self.memory: dict[int, int] = {}  # reshaped value -> the value whose memory it has
        self.releases: list[release.Release] = []

    def run(self, sums: list[Value]) -> list[Value]:
        """The results, a tuple's fields one by one. sums: kinds of the arguments with that role."""
        if self.name == "accumulate":
            self._examples()
        waiting = list(sums)
        for role, parameter in zip(self.roles, self.function.params, strict=True):
            operation = f"{self.name}'s argument {parameter.name} ({role})"
            shape, dtype = self._type(parameter, operation)
            kind: Kind = Public()
            if role in ("input", "labels"):
                kind = PerExample(operation)
            elif role == "mask":
                kind = Mask(operation)
            elif role == "key":
                kind = Key()
            elif role == "sum":
                if not waiting or waiting[0].shape != shape:
                    raise Refusal(
                        Reason.MALFORMED, operation, "it is none of the results of accumulate, in their order"
                    )
                kind = waiting.pop(0).kind
            self.values[parameter] = Value(kind, self._fresh(), shape, dtype)
        if waiting:
            raise Refusal(Reason.MALFORMED, self.name, f"it leaves {len(waiting)} results of accumulate unread")
        result = self.expression(self.function.body)
        return list(result.values) if isinstance(result, Fields) else [result]  # type: ignore[arg-type]

    def _examples(self) -> None:
        by_role = {role: p for role, p in zip(self.roles, self.function.params, strict=True) if role != "parameter"}
        if sorted(role for role in self.roles if role != "parameter") != ["input", "labels", "mask"]:
            raise Refusal(Reason.MALFORMED, self.name, "it must have one input, labels and mask")
        (input_shape, self.dtype), (labels, _), (mask, _) = (
            self._type(by_role[role], f"{self.name}'s {role}") for role in ("input", "labels", "mask")
        )
        if self.dtype not in ("float32", "float64"):
            raise Refusal(Reason.MALFORMED, self.name, f"its input is {self.dtype}; float32 or float64 is checked")
        self.examples = mask[0] if len(mask) == 1 else 0
        rows = input_shape[0] if input_shape else 0
        if self.examples < 1 or rows < 1 or rows % self.examples or labels != (rows,):
            message = f"input {input_shape}, labels {labels} and mask {mask} do not have a row an example or view"
            raise Refusal(Reason.MALFORMED, self.name, message)

    def names_of_results(self) -> list[str]:
        """The parameters and the state that leave, by the arguments whose place they take."""
        return [str(p.name) for role, p in zip(self.roles, self.function.params, strict=True) if role == "parameter"]

    def _fresh(self, key: Hashable = None) -> int:
        """The number of a value: a new one, or the one that `key` had before."""
        return self.numbers.setdefault(key if key is not None else ("new", len(self.numbers)), len(self.numbers))

    def _type(self, expression: relax.Expr, operation: str) -> tuple[tuple[int, ...], str]:
        ty = expression.ty
        try:
            return tuple(int(extent) for extent in ty.shape), str(ty.dtype)
        except (AttributeError, TypeError) as error:
            raise Refusal(Reason.MALFORMED, operation, f"its shape is not static: {ty}") from error

    def expression(self, value: relax.Expr, name: str = "the result") -> Value | Fields:
        if isinstance(value, relax.Var):
            if value not in self.values:
                raise Refusal(Reason.MALFORMED, f"{value.name} in {self.name}", "it is used before it is bound")
            return self.values[value]
        if isinstance(value, relax.SeqExpr):
            return self._sequence(value)
        if isinstance(value, tvm.ir.Constant):
            return self._constant(value)
        if isinstance(value, relax.Tuple):
            return Fields(tuple(self.expression(field, name) for field in value.fields))
        if isinstance(value, relax.TupleGetItem):
            fields = self.expression(value.tuple_value, name)
            if not isinstance(fields, Fields):
                raise Refusal(Reason.MALFORMED, f"{name} in {self.name}", "it takes a field of what is no tuple")
            return fields.values[int(value.index)]
        if isinstance(value, relax.If):
            return self._branch(value, name)
        if isinstance(value, relax.Call):
            return self._call(value, name)
        raise Refusal(Reason.UNKNOWN, f"{name} in {self.name}", f"there is no rule for {type(value).__name__}")

    def _sequence(self, sequence: relax.SeqExpr) -> Value | Fields:
        for block in sequence.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.VarBinding):
                    message = f"there is no rule for {type(binding).__name__}"
                    raise Refusal(Reason.UNKNOWN, f"{binding.var.name} in {self.name}", message)
                self.values[binding.var] = self.expression(binding.value, str(binding.var.name))
        return self.expression(sequence.body)

    def _constant(self, constant: "tvm.ir.Constant") -> Value:
        data = constant.value.numpy() if isinstance(constant.value, tvm.runtime.Tensor) else np.asarray(constant.value)
        scalar = float(data) if data.size == 1 else None
        key = ("constant", str(data.dtype), data.shape, data.tobytes())
        return Value(Public(), self._fresh(key), data.shape, str(data.dtype), scalar)

    def _branch(self, value: relax.If, name: str) -> Value | Fields:
        operation = f"{name} = if {getattr(value.cond, 'name', 'a computed value')} in {self.name}"
        condition = self.expression(value.cond, name)
        kind = condition.kind if isinstance(condition, Value) else None
        if isinstance(kind, Public):
            raise Refusal(Reason.UNKNOWN, operation, "there is no rule for branches, not even on public values")
        raise Refusal(Reason.BRANCH, operation, "it takes a branch by a private value")

    def _call(self, call: relax.Call, name: str) -> Value | Fields:
        if not isinstance(call.op, tvm.ir.Op):
            raise Refusal(Reason.UNKNOWN, f"{name} in {self.name}", f"it calls {call.op}, whose body is not checked")
        op = str(call.op.name)
        named = [str(arg.name) if isinstance(arg, relax.Var) else "…" for arg in call.args]
        if len(named) > 6:
            named[3:-1] = [f"… {len(named) - 4} more …"]
        operation = f"{name} = {op}({', '.join(named)}) in {self.name}"
        if op not in plain.OPERATORS and op.removeprefix("privlib.") not in _DIALECT:
            raise Refusal(Reason.UNKNOWN, operation, "there is no rule for this operator")
        args = self._arguments(call, name)
        try:
            if op.startswith("privlib."):
                return self._dialect(call, op.removeprefix("privlib."), args, operation)
            return self._plain(call, op, args, operation)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
            message = f"its arguments or attributes are not those of the operator: {error!r}"
            raise Refusal(Reason.MALFORMED, operation, message) from error

    def _arguments(self, call: relax.Call, name: str) -> list[Value]:
        """Tensors, those of a tuple one by one; shapes and numbers are no values."""
        found: list[Value] = []
        for arg in call.args:
            if isinstance(arg, relax.ShapeExpr) or _is_number(arg):
                continue
            value = self.expression(arg, name)
            fields = list(value.values) if isinstance(value, Fields) else [value]
            if not all(isinstance(field, Value) for field in fields):
                raise Refusal(Reason.MALFORMED, f"{name} in {self.name}", "its arguments are tuples within tuples")
            found += fields  # type: ignore[arg-type]
        return found

    def _plain(self, call: relax.Call, op: str, args: list[Value], operation: str) -> Value:
        shape, dtype = self._type(call, operation)
        if plain.same_memory(op) and args[0].shape == shape:
            return args[0]
        kind = release.linear(op, args, operation)
        if kind is None and op == "relax.add":
            kind = clipping.added_squares(args, operation)
        if kind is None:
            axes = [int(axis) for axis in call.args[1]] if op == "relax.strided_slice" else None
            kind = plain.kind_of_result(op, args, call.attrs, axes, shape, self.examples, operation)
        key: Hashable = None
        if plain.same_memory(op):
            key = ("reshape", self.memory.get(args[0].number, args[0].number), shape)
        elif op == "relax.permute_dims":
            key = (op, args[0].number, tuple(int(axis) for axis in call.attrs.axes or ()))
        number = self._fresh(key)
        if plain.same_memory(op):
            self.memory[number] = self.memory.get(args[0].number, args[0].number)
        return Value(kind, number, shape, dtype)

    def _dialect(self, call: relax.Call, name: str, args: list[Value], operation: str) -> Value | Fields:
        a = call.attrs
        types = {arg.dtype for arg in args} - {"int64", "uint32"}
        if not types <= {self.dtype}:
            message = f"it computes in {', '.join(sorted(types))}, the program in {self.dtype}"
            raise Refusal(Reason.MALFORMED, operation, message)
        fields = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else [call.ty]
        shapes = [tuple(int(extent) for extent in field.shape) for field in fields]
        key = (name, tuple(arg.number for arg in args), _frozen(a))
        number = self._fresh(key)
        kinds: tuple[Kind, ...]
        if name == "elementwise" and str(a["formula"]) == "add" and clipping.added_squares(args, operation):
            kinds = (clipping.added_squares(args, operation),)  # type: ignore[assignment]
        elif name in data_path.OPERATORS:
            leading = [shape[0] if shape else 0 for shape in shapes]
            kind = data_path.kind_of_result(name, args, a, leading, self.examples, operation)
            kinds = (kind,) * len(shapes)
        elif name in ("weight_norm", "weight_norm_kept", "row_squares"):
            kinds = clipping.norms(name, args, a, self.examples, operation)
        elif name == "clip":
            kinds = clipping.clip(args, a, self.examples, number, operation)
        elif name == "repeat":
            kinds = (clipping.repeat(args[0], a, operation),)
        elif name in ("weight_sum", "factor_sum", "kept_sum"):
            kinds = (clipping.weighted_sum(name, args, a, self.examples, operation),)
        else:
            kinds = (release.noisy(args, a, self.releases, operation),)
        values = tuple(
            Value(kind, self._fresh((number, i)), shape, str(field.dtype))
            for i, (kind, shape, field) in enumerate(zip(kinds, shapes, fields, strict=True))
        )
        return Fields(values) if len(values) > 1 else values[0]


def _is_number(arg: relax.Expr) -> bool:
    """An integer or floating-point literal, or a tuple of them: axes and bounds."""
    if isinstance(arg, relax.Tuple):
        return all(_is_number(field) for field in arg.fields)
    return isinstance(arg, tvm.tirx.IntImm | tvm.tirx.FloatImm)


def _frozen(attributes: Mapping[str, Any]) -> Hashable:
    """Attributes as part of a value's number; the parameter's name says nothing about the value."""
    pairs = ((str(k), tuple(v) if not isinstance(v, str | int | float | bool) else v) for k, v in attributes.items())
    return tuple(sorted((pair for pair in pairs if pair[0] not in ("parameter", "strategy")), key=lambda pair: pair[0]))
