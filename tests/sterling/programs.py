"""Training programs for the checker's tests: the compiler's passes up to the stage that is checked, no native code."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm import relax

from privlib.compiler import DPSGD, SGD
from privlib.compiler.canonicalize import canonicalize
from privlib.compiler.custom_loss import import_loss
from privlib.compiler.differentiate import Clipping, differentiate
from privlib.compiler.fuse import fuse
from privlib.compiler.importer import import_model
from privlib.compiler.kernels.noise import NoiseGrid
from privlib.compiler.strategies import choose
from privlib.compiler.target import machine
from privlib.compiler.training import clipping_margin
from privlib.sterling import ProgramPolicy, training_program

CLASSES = 10
POLICY = ProgramPolicy(noise_multiplier=1.0, epsilon=8.0, delta=1e-5, sample_rate=0.01, steps=1000)


class Branches(nn.Module):
    """Convolutions (one of them grouped, one with stride), GroupNorm, a residual sum, pooling, linear layers at several
    places and at one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm, self.grouped = nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3, stride=2, groups=2)
        self.rows, self.last = nn.Linear(9, 5), nn.Linear(20, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(self.norm(self.inner(x)) + x)
        x = torch.tanh(self.grouped(x))
        return self.last(torch.tanh(self.rows(x.flatten(2))).flatten(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, CLASSES))


def compiled(
    model: nn.Module,
    shape: Sequence[int],
    batch: int = 4,
    privacy: DPSGD | None = None,
    optimizer: SGD | None = None,
    strategy: str | Mapping[str, str] = "auto",
    loss: Callable[..., torch.Tensor] | None = None,
    precision: str = "float32",
) -> Any:
    """What `compile_training` makes of a model, up to stage `strategies`, and the manifest's facts about privacy."""
    privacy = privacy or DPSGD(1.0, 1.0, 8)
    optimizer = optimizer or SGD(0.1)
    imported = import_model(model, batch * privacy.augmentations, tuple(shape))
    fused = fuse(canonicalize(imported.module, precision))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = tuple(name for name in imported.parameters if name not in trainable)
    function = import_loss(loss, batch * privacy.augmentations, CLASSES, precision) if loss else None

    def chosen(bound: float) -> Any:
        graph = differentiate(fused, frozen, Clipping(privacy.clipping, bound), privacy.augmentations, function)
        return choose(graph, machine("native"), strategy)

    _, choices = chosen(1.0)
    module, _ = chosen(privacy.max_grad_norm / (1 + clipping_margin(precision, batch, choices.values())))
    multiplier = privacy.noise_multiplier
    facts = {
        "privacy": {
            "noise_multiplier": multiplier,
            "max_grad_norm": privacy.max_grad_norm,
            "expected_batch_size": privacy.expected_batch_size,
            "grid_step": NoiseGrid.of(multiplier, privacy.max_grad_norm).step if multiplier else None,
        },
        "optimizer": vars(optimizer),
        "roles": {name: "frozen" if name in frozen else "trainable" for name in imported.parameters},
    }
    return SimpleNamespace(manifest=facts, ir=lambda stage: {"strategies": module}[stage])


def program(*args: Any, **options: Any) -> tvm.IRModule:
    return training_program(compiled(*args, **options))


# How to change a program: a function sees every call and may put something else in its place.
Get = Callable[[relax.Expr], relax.Expr]
Visit = Callable[[relax.BlockBuilder, relax.Var, relax.Expr], relax.Expr | None]
Finish = Callable[[relax.BlockBuilder, list[relax.Expr], dict[str, relax.Expr]], list[relax.Expr]]


def rewritten(
    module: tvm.IRModule,
    function: str,
    visit: Visit | None = None,
    finish: Finish | None = None,
    roles: Sequence[str] | None = None,
) -> tvm.IRModule:
    """`visit(builder, variable, value)` gives what replaces a binding's value (operands translated), None leaves it;
    `finish(builder, results, values by name)` gives the results. Everything else is copied."""
    main = module[function]
    builder = relax.BlockBuilder()
    values: dict[relax.Var, relax.Expr] = {p: relax.Var(p.name, p.ty) for p in main.params}
    named: dict[str, relax.Expr] = {str(p.name): new for p, new in values.items()}
    bound: dict[relax.Expr, relax.Expr] = {}

    def get(value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([get(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(get(value.tuple_value), value.index)
        if isinstance(value, relax.Call):
            return relax.Call(value.op, [get(arg) for arg in value.args], value.attrs, value.ty_args)
        return values.get(value, value) if isinstance(value, relax.Var) else value

    names = list(roles or main.attrs["roles"])
    with builder.function(function, [values[p] for p in main.params], attrs={"roles": names}):
        for block in main.body.blocks:
            for binding in block.bindings:
                value = get(binding.value)
                bound[binding.var] = binding.value
                other = visit(builder, binding.var, value) if visit else None
                values[binding.var] = builder.emit(value if other is None else other, str(binding.var.name))
                named[str(binding.var.name)] = values[binding.var]
        body = main.body.body
        while isinstance(body, relax.Var):
            body = bound[body]
        results = [get(field) for field in body.fields]
        builder.emit_func_output(relax.Tuple(finish(builder, results, named) if finish else results))
    changed = builder.get()[function]
    return tvm.IRModule({each: changed if each == function else module[each] for each in ("accumulate", "update")})


def calls(module: tvm.IRModule, function: str, *names: str) -> list[tuple[relax.Var, relax.Call]]:
    """Every binding of a call of one of the operators (`privlib.` left out), in order."""
    return [
        (binding.var, binding.value)
        for block in module[function].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and str(binding.value.op.name).removeprefix("privlib.") in names
    ]


def size(expression: relax.Expr) -> int:
    return math.prod(int(extent) for extent in expression.ty.shape)
