"""What the canonicalizing pass keeps of every value: the expression, and the order its axes have in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.errors import CompileError


@dataclass
class Value:
    """A translated expression: in PyTorch's layout, or channel-last; `channels` is the vector behind a (1, C, 1, 1)
    reshape."""

    expression: relax.Expr
    nhwc: bool = False
    channels: relax.Expr | None = None


class Translator:
    """Values so far, and the two layouts turned into each other."""

    def __init__(self) -> None:
        self.builder = relax.BlockBuilder()
        self.values: dict[relax.Var, Value | list[Value]] = {}

    def value(self, expression: relax.Expr) -> Value:
        if isinstance(expression, relax.Var):
            found = self.values[expression]
            if isinstance(found, list):
                raise CompileError(f"a tuple is used where a tensor is expected ({expression.name})")
            return found
        return Value(expression)

    def emit(self, name: str, args: Sequence[relax.Expr], **attributes: object) -> relax.Expr:
        return self.builder.emit(dialect.call(name, args, **attributes))

    def plain(self, value: Value) -> relax.Expr:
        return (
            self.builder.emit(relax.op.permute_dims(value.expression, [0, 3, 1, 2])) if value.nhwc else value.expression
        )

    def channel_last(self, value: Value) -> relax.Expr:
        return (
            value.expression if value.nhwc else self.builder.emit(relax.op.permute_dims(value.expression, [0, 2, 3, 1]))
        )

    def unchanged(self, call: relax.Call) -> Value:
        args = [
            relax.Tuple([self.plain(self.value(field)) for field in arg.fields])
            if isinstance(arg, relax.Tuple)
            else self.plain(self.value(arg))
            for arg in call.args
        ]
        return Value(self.builder.emit(relax.Call(call.op, args, call.attrs, call.ty_args)))

    def elementwise(self, formula: str, operands: Sequence[Value], *channel_vectors: relax.Expr) -> Value:
        args = [operand.expression for operand in operands] + list(channel_vectors)
        return Value(self.emit("elementwise", args, formula=formula), nhwc=operands[0].nhwc)


def ints(values: Sequence[object]) -> list[int]:
    return [int(value) for value in values]  # type: ignore[call-overload]
