"""Bugs that DP-SGD implementations have had, planted in a real step: each leaves the manifest, and so the claim, as it
is, and changes what the compiled code does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from privlib.compiler import training
from privlib.compiler.kernels.update import Update
from privlib.trusted.training import StepResult, TrainingStep


@contextmanager
def noise_divided_by(factor: float) -> Iterator[None]:
    """What is compiled meanwhile draws noise that is weaker by `factor`.

    factor 2: σ where 2σ belongs. factor = number of physical batches: the sums of the batches are averaged first and
    the noise is added to that average, with the deviation that belongs to the average, and divided once more.
    """
    honest = training.update

    def planted(machine: Any, dtype: str, what: Update) -> Any:
        assert what.grid is not None
        grid = replace(what.grid, sigma_steps=what.grid.sigma_steps / factor)
        return honest(machine, dtype, replace(what, grid=grid))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "update", planted)
        yield


@contextmanager
def last_layer_unclipped() -> Iterator[None]:
    """A pass after `differentiate`: the last weight's gradients are summed with the mask in place of the clip
    factors, as where a hook is missing on one layer."""
    honest: Callable[..., tvm.IRModule] = training.differentiate

    def planted(*args: Any) -> tvm.IRModule:
        module = honest(*args)
        main = module["main"]
        mask, *weights = main.params[2:]
        left = len(weights)

        @relax.expr_functor.mutator
        class Unclipped(relax.PyExprMutator):
            def visit_call_(self, call: relax.Call) -> relax.Expr:
                nonlocal left
                if str(getattr(call.op, "name", "")) != "privlib.weight_sum":
                    return call
                left -= 1
                return call if left else relax.Call(call.op, [*call.args[:2], mask], call.attrs, call.ty_args)

        body = Unclipped().visit_expr(main.body)
        assert left == 0
        return tvm.IRModule({"main": relax.Function(main.params, body, main.ret_ty, attrs=main.attrs)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "differentiate", planted)
        yield


@contextmanager
def without_verification() -> Iterator[None]:
    """The compiler hands out what it has not compared with PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "verify_training", lambda *_: None)
        yield


class IgnoresMask(TrainingStep):
    """Padding and left-out examples count like the others."""

    def _pieces(self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray | None) -> Any:
        return super()._pieces(images, labels, None)


class DividesByCount(TrainingStep):
    """The average is over the examples that were drawn, as a mean loss does it, noise and all."""

    def update(self, learning_rate: float | None = None) -> StepResult:
        assert self.privacy is not None
        before, result = self.parameters(), super().update(learning_rate)
        ratio = float(self.privacy["expected_batch_size"]) / max(1, result.examples)
        self.load_parameters({n: before[n] + ratio * (after - before[n]) for n, after in self.parameters().items()})
        return result
