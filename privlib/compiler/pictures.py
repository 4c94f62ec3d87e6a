"""The IR as people read it: a line a binding, an excerpt of a stage, and how many operators there are."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import tvm
from torch.utils._python_dispatch import TorchDispatchMode
from tvm import relax

# Attributes that say nothing beyond the usual are left out of a line.
_USUAL = (False, "none", 1, [1, 1], [0, 0, 0, 0])
_IDLE = ("relax.vm", "relax.reshape", "relax.null_value")
_PREFIX = re.compile(r"^(privlib|relax|vm\.builtin)\.")


def lines(module: tvm.IRModule, function: str = "main") -> list[str]:
    """Each binding of a Relax function as `name (shape) = operator(operands, attribute=value)`.

    `call_tir(kernel, …)` is shown as a call of the kernel; attributes with their usual values are left out.
    """
    return [_line(binding) for binding in _bindings(module[function].body)]


def excerpt(module: tvm.IRModule, pattern: str, most: int = 8, width: int = 112) -> str:
    """The first `most` lines of "main" in which the regular expression `pattern` occurs, cut to `width` characters;
    `…` stands for lines left out."""
    shown: list[str] = []
    found = 0
    for line in lines(module):
        if re.search(pattern, line) and found < most:
            shown.append(line if len(line) <= width else line[: width - 1] + "…")
            found += 1
        elif shown[-1:] != ["…"]:
            shown.append("…")
    return "\n".join(shown)


def operators(module: tvm.IRModule) -> int:
    """How many operators "main" applies. What does no work of its own is not counted: names, tuples, reshapes,
    allocations, and the virtual machine's checks of its arguments."""
    calls = [b.value for b in _bindings(module["main"].body) if isinstance(b.value, relax.Call)]
    return sum(isinstance(call.op, tvm.ir.GlobalVar) or _works(call.op) for call in calls)


def torch_operators(function: Callable[..., object], *arguments: Any) -> int:
    """How many operators PyTorch dispatches while it computes function(*arguments), backward passes included."""
    with _Counter() as counter:
        function(*arguments)
    return counter.count


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _works(op: relax.Expr) -> bool:
    return isinstance(op, tvm.ir.Op) and not str(op.name).startswith(_IDLE)


def _bindings(body: relax.Expr) -> Iterator[relax.Binding]:
    for block in body.blocks:
        yield from block.bindings


def _line(binding: relax.Binding) -> str:
    value = binding.value
    text = _call(value) if isinstance(value, relax.Call) else _expression(value)
    shape = _shape(binding.var.ty)
    return f"{binding.var.name}{f' {shape}' if shape else ''} = {text}"


def _operator(call: relax.Call) -> tuple[str, list[relax.Expr]]:
    """Name and operands; of a `call_tir` those of the kernel."""
    if isinstance(call.op, tvm.ir.Op):
        if str(call.op.name).startswith("relax.call_tir"):
            kernel, operands = call.args[0], call.args[1]
            return str(kernel.name_hint), list(operands.fields)
        return _PREFIX.sub("", str(call.op.name)), list(call.args)
    name = call.op.global_symbol if isinstance(call.op, relax.ExternFunc) else call.op.name_hint
    return _PREFIX.sub("", str(name)), list(call.args)


def _call(call: relax.Call) -> str:
    name, operands = _operator(call)
    parts = [_expression(operand) for operand in operands]
    if isinstance(call.attrs, tvm.ir.DictAttrs):
        values = {key: _plain(value) for key, value in call.attrs.items()}
        parts += [f"{key}={value}" for key, value in values.items() if value not in _USUAL]
    return f"{name}({', '.join(parts)})"


def _expression(value: relax.Expr) -> str:
    if isinstance(value, relax.Var):
        return str(value.name)
    if isinstance(value, relax.Tuple):
        return f"({', '.join(_expression(field) for field in value.fields)})"
    if isinstance(value, relax.TupleGetItem):
        return f"{_expression(value.tuple_value)}[{value.index}]"
    if isinstance(value, relax.ShapeExpr):
        return f"[{_extents(value)}]"
    if isinstance(value, relax.Call):
        return _call(value)
    return str(getattr(value, "value", value)).splitlines()[0]


def _shape(ty: object) -> str:
    shape = getattr(ty, "shape", None)
    return f"({_extents(shape)})" if isinstance(shape, relax.ShapeExpr) else ""


def _extents(shape: relax.ShapeExpr) -> str:
    return ", ".join(str(getattr(extent, "value", extent)) for extent in shape.values)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | bool | int):
        return value
    return [_plain(each) for each in value] if hasattr(value, "__iter__") else str(value)
