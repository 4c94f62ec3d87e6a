"""compile_training: PyTorch model → native training step, checked against eager PyTorch, cached by content."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import tvm

from privlib.compiler import library, pipeline
from privlib.compiler.canonicalize import canonicalize
from privlib.compiler.custom_loss import Loss, import_loss
from privlib.compiler.differentiate import Clipping, differentiate
from privlib.compiler.errors import CompileError, VerificationError
from privlib.compiler.fuse import fuse
from privlib.compiler.importer import Imported, import_model
from privlib.compiler.kernels.gram import UNIT
from privlib.compiler.kernels.noise import NoiseGrid
from privlib.compiler.kernels.update import Flat, Update, update
from privlib.compiler.lower import Fold, lower
from privlib.compiler.options import DPSGD, SGD
from privlib.compiler.strategies import Choice, choose
from privlib.compiler.target import Machine, machine, runs_here
from privlib.compiler.verify_training import refuse_modules, verify_training
from privlib.trusted.artifact import Artifact
from privlib.trusted.training import TrainingStep

STAGES = ("imported", "canonical", "fused", "differentiated", "strategies", "lowered", "planned")


class CompiledTraining(TrainingStep):
    """A TrainingStep that still knows the IR it was made of."""

    def __init__(self, artifact: Artifact, stages: Mapping[str, tvm.IRModule]) -> None:
        super().__init__(artifact)
        self._stages = stages

    def ir(self, stage: str) -> tvm.IRModule:
        """The IRModule after a pass: one of `imported`, `canonical`, `fused`, `differentiated`, `strategies`,
        `lowered`, `planned`."""
        if stage not in self._stages:
            raise CompileError(f"there is no stage {stage!r}; use one of {', '.join(STAGES)}")
        return self._stages[stage]


@dataclass(frozen=True)
class _Plan:
    """All that decides the code, beside the model."""

    cpu: Machine
    optimizer: SGD
    privacy: DPSGD | None
    precision: str
    frozen: tuple[str, ...]
    norm_strategy: str | Mapping[str, str]
    loss: Loss | None

    @property
    def views(self) -> int:
        return self.privacy.augmentations if self.privacy else 1

    @property
    def grid(self) -> NoiseGrid | None:
        if self.privacy is None or not self.privacy.noise_multiplier:
            return None
        return NoiseGrid.of(self.privacy.noise_multiplier, self.privacy.max_grad_norm)


_Passed = tuple[dict[str, tvm.IRModule], dict[str, Choice], float]
"""The module after each pass, each weight's choice, and the clipping margin."""


def compile_training(
    model: torch.nn.Module,
    batch_size: int,
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    loss: str | Loss = "cross_entropy",
    optimizer: SGD,
    privacy: DPSGD | None = None,
    target: str = "native",
    precision: str = "float32",
    norm_strategy: str | Mapping[str, str] = "auto",
) -> CompiledTraining:
    """Compile a training step of `model` for physical batches of batch_size examples float32 (…, *input_shape).

    loss: "cross_entropy", or a function (logits, labels int64 (B,)) → (B,). privacy=None is plain SGD through the same
    kernels. Parameters with requires_grad=False are frozen: they stay as they are and count for no norm. precision:
    "float64" is for verification. norm_strategy: "auto", "goodfellow", "gram" or "instantiate", or a dict from weight
    names to these. Code is cached by content; when it is built, loss and gradient sum of a random batch must agree with
    eager PyTorch's (1e-4 and 5e-2 relative). Raises UnsupportedOperatorError, CompileError, TargetError, NoiseError,
    VerificationError.
    """
    cpu = machine(target)
    if not runs_here(cpu.level):
        raise CompileError(f"this CPU cannot run {cpu.level}, so the result could not be checked; use target='native'")
    if precision not in UNIT:
        raise CompileError(f"precision is 'float32' or 'float64', got {precision!r}")
    refuse_modules(model)
    views = privacy.augmentations if privacy else 1
    imported = import_model(model, batch_size * views, input_shape)
    plan = _Plan(cpu, optimizer, privacy, precision, _frozen(model, imported), norm_strategy, _loss(loss))
    passes = _passes(imported, plan, batch_size)
    try:
        return _verified(model, imported, plan, passes, batch_size, input_shape)
    except VerificationError:
        given = {} if isinstance(norm_strategy, str) else norm_strategy
        cancelling = [name for name, choice in passes[1].items() if choice.strategy == "gram" and name not in given]
        if norm_strategy == "gram" or not cancelling:
            raise
        # a gradient that cancels (before a normalization, say) has a norm that only `instantiate` sees exactly
        plan = replace(plan, norm_strategy={**given, **dict.fromkeys(cancelling, "instantiate")})
        return _verified(model, imported, plan, _passes(imported, plan, batch_size), batch_size, input_shape)


def _verified(
    model: torch.nn.Module,
    imported: Imported,
    plan: _Plan,
    passed: _Passed,
    batch_size: int,
    input_shape: Sequence[int],
) -> CompiledTraining:
    """Built, or found in the cache, and compared with eager PyTorch."""
    stages, choices, margin = passed
    path, _ = library.build_library(stages["planned"], plan.cpu)
    facts = _facts(imported, plan, stages, choices, margin, batch_size, input_shape)
    arrays, roles = _arrays(model, imported, plan)
    artifact = library.cached_artifact(path, arrays, {**facts, "roles": roles})
    compiled = CompiledTraining(artifact, stages)
    classes = shape_of_result(stages["canonical"])[-1]
    library.verify_once(path, artifact, lambda: verify_training(model, compiled, plan.loss, classes))
    return compiled


def _loss(loss: str | Loss) -> Loss | None:
    """The function, or None for cross-entropy."""
    if callable(loss):
        return loss
    if loss != "cross_entropy":
        raise CompileError(f"loss is 'cross_entropy' or a function (logits, labels) → (B,), got {loss!r}")
    return None


def shape_of_result(module: tvm.IRModule) -> tuple[int, ...]:
    return tuple(int(extent) for extent in module["main"].ret_ty.shape)


def _frozen(model: torch.nn.Module, imported: Imported) -> tuple[str, ...]:
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return tuple(name for name in imported.parameters if name not in trainable)


def _passes(imported: Imported, plan: _Plan, batch_size: int) -> _Passed:
    """The module after each pass, each weight's choice, and the clipping margin η.

    η depends on the strategies, and the bound to clip to on η, so the bound is put in once they are known.
    """
    stages = {"imported": imported.module}
    stages["canonical"] = canonicalize(imported.module, plan.precision)
    stages["fused"] = fuse(stages["canonical"])
    kind = plan.privacy.clipping if plan.privacy else "none"
    rows, *classes = shape_of_result(stages["canonical"])
    if len(classes) != 1 or rows != batch_size * plan.views:
        raise CompileError(f"the model gives {(rows, *classes)}; the loss needs logits (batch, classes)")
    loss = import_loss(plan.loss, rows, classes[0], plan.precision) if plan.loss else None

    def chosen(bound: float) -> dict[str, Choice]:
        graph = differentiate(stages["fused"], plan.frozen, Clipping(kind, bound), plan.views, loss)
        stages["differentiated"] = graph
        stages["strategies"], choices = choose(graph, plan.cpu, plan.norm_strategy)
        return choices

    choices, margin = chosen(1.0), 0.0
    if plan.privacy:
        margin = clipping_margin(plan.precision, batch_size, choices.values())
        choices = chosen(plan.privacy.max_grad_norm / (1 + margin))
    sizes = tuple(math.prod(array.shape) for name, array in imported.parameters.items() if name not in plan.frozen)
    flat = Flat(sizes)
    fold = Fold(3 if plan.privacy else 2, flat, plan.grid)
    expected = plan.privacy.expected_batch_size if plan.privacy else None
    o = plan.optimizer
    step = update(plan.cpu, plan.precision, Update(flat, expected, plan.grid, o.momentum, o.nesterov, o.weight_decay))
    lowered = pipeline.legalize(lower(stages["strategies"], plan.cpu, fold))
    lowered["update"] = step
    stages["lowered"] = lowered
    stages["planned"] = pipeline.plan(lowered)
    return stages, choices, margin


def clipping_margin(precision: str, batch_size: int, choices: Iterable[Choice]) -> float:
    """η: gradients are clipped to C / (1 + η), so that what is summed never exceeds C, rounding included.

    η = 2·m²·u + 2048·u + max over the weights of `gram.margin`, for m examples in a physical batch and u half a unit in
    the last place. m additions move a sum by at most m·u of what was added, at most m·C, and this once for each of two
    neighbouring batches. Squares are added up in sums of at most 4096 terms one after the other, all positive, so their
    root is right to 2048·u. `gram.margin` is by how much that strategy's norm may be too small; where gradients are
    formed, the norm is taken of what is summed.
    """
    return (2 * batch_size**2 + 2048) * UNIT[precision] + max((choice.margin for choice in choices), default=0.0)


def _facts(
    imported: Imported,
    plan: _Plan,
    stages: Mapping[str, tvm.IRModule],
    choices: Mapping[str, Choice],
    margin: float,
    batch_size: int,
    input_shape: Sequence[int],
) -> dict[str, object]:
    privacy, o = plan.privacy, plan.optimizer
    released = None
    if privacy:
        released = {
            "noise_multiplier": privacy.noise_multiplier,
            "max_grad_norm": privacy.max_grad_norm,
            "expected_batch_size": privacy.expected_batch_size,
            "clipping": privacy.clipping,
            "augmentations": privacy.augmentations,
            "grid_step": plan.grid.step if plan.grid else None,
        }
    return {
        "kind": "training",
        "level": plan.cpu.level,
        "batch_size": batch_size,
        "input_shape": list(input_shape),
        "num_classes": None if plan.loss else shape_of_result(stages["canonical"])[-1],
        "dtype": plan.precision,
        "optimizer": {
            "learning_rate": o.learning_rate,
            "momentum": o.momentum,
            "nesterov": o.nesterov,
            "weight_decay": o.weight_decay,
        },
        "privacy": released,
        "strategies": {name: choice.strategy for name, choice in choices.items()},
        "clipping_margin": margin,
        "memory": {
            "activation_bytes": pipeline.planned_bytes(stages["planned"]),
            "scratch_bytes": pipeline.scratch_bytes(stages["planned"], plan.cpu),
        },
    }


def _arrays(
    model: torch.nn.Module, imported: Imported, plan: _Plan
) -> tuple[list[tuple[str, np.ndarray]], dict[str, str]]:
    """All arrays in the code's order, then what of the state_dict it does not use; and the role of each."""
    arrays, roles = [], {}
    state = model.state_dict()
    for name, array in imported.parameters.items():
        arrays.append((name, array.astype(plan.precision) if array.dtype.kind == "f" else array))
        roles[name] = "constant" if name not in state else "frozen" if name in plan.frozen else "trainable"
    for name, tensor in state.items():
        if name not in roles:
            arrays.append((name, tensor.numpy()))
            roles[name] = "unused"
    return arrays, roles
