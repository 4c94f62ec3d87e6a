"""Reverse mode with per-example clipping: one pass forward, one back, every example's gradient clipped and summed.

The result is main(input, labels int64 (B,), mask (B,) of 0 and 1, parameters…) →
(losses (B,), squared gradient norms (B,), factors (B,), the weighted gradient sum of each trainable parameter…);
without clipping there are no norms, the factors are the mask.

The data path is differentiated once. Where a parameter is used, the pair (input, output gradient) is kept – never an
example's gradient – and serves twice: for the squared norm of each example's gradient (`weight_norm`, the custom
operator after Goodfellow 2015), and, once all norms have given the clip factors, for the sum of the scaled gradients
(`weight_sum`). The number of operators does not depend on the batch (book-keeping, Bu et al. 2023, arXiv 2210.00038).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import dtype_of, shape_of
from privlib.compiler.errors import CompileError, UnsupportedOperatorError
from privlib.compiler.gradients import GradientRules


@dataclass(frozen=True)
class Clipping:
    """kind: "flat", "normalize", or "none": no norm is taken, every example counts as the mask says; bound: the norm to
    clip to."""

    kind: str = "none"
    bound: float = 1.0


@dataclass
class Site:
    """A use of one parameter: how to get each example's squared gradient norm, and the weighted sum."""

    parameter: relax.Var
    squares: relax.Expr | None
    sum_name: str
    operands: list[relax.Expr]
    attributes: dict[str, Any] = field(default_factory=dict)


def differentiate(
    module: tvm.IRModule,
    frozen: Collection[str] = (),
    clipping: Clipping | None = None,
    views: int = 1,
    loss: relax.Function | None = None,
) -> tvm.IRModule:
    """The pass. `frozen` names function parameters that get no gradient and count for no norm.

    `views` consecutive rows of the input are views of one example: labels and losses have a row for each of them, and
    an example's gradient is the mean of theirs, taken before the norm; mask, norms and factors have a row an example.
    `loss` is a function (logits, labels) → (losses, their gradients); None is cross-entropy.

    Raises CompileError for a trainable parameter used twice, or where no example's gradient can be told from another's;
    UnsupportedOperatorError for an operator without a gradient.
    """
    live = relax.transform.DeadCodeElimination()(module)
    return _Differentiator(live["main"], frozenset(frozen), clipping or Clipping(), views, loss).run()


class _Differentiator(GradientRules):
    def __init__(
        self, main: relax.Function, frozen: frozenset[str], clipping: Clipping, views: int, loss: relax.Function | None
    ) -> None:
        super().__init__(main.params)
        self.main, self.frozen, self.clipping, self.views, self.loss = main, frozen, clipping, views, loss
        self.sites: dict[relax.Var, Site] = {}
        self.batch = shape_of(main.params[0])[0]
        # values whose memory is one block after another of the examples, in order
        self.by_examples: set[relax.Var] = set()

    def run(self) -> tvm.IRModule:
        source, *parameters = (relax.Var(p.name, p.ty) for p in self.main.params)
        self.values.update(zip(self.main.params, [source, *parameters], strict=True))
        self.by_examples = {self.main.params[0]}
        labels = relax.Var("labels", relax.TensorType((self.batch,), "int64"))
        mask = relax.Var("mask", relax.TensorType((self.batch // self.views,), dtype_of(source)))
        bindings = [binding for block in self.main.body.blocks for binding in block.bindings]
        with self.builder.function("main", [source, labels, mask, *parameters], attrs={"num_input": 3}):
            with self.builder.dataflow():
                for binding in bindings:
                    self.follow_examples(binding)
                    self.values[binding.var] = self.builder.emit(self.forward(binding.value))
                losses, start = self.loss_and_gradient(self.values[self.main.body.body], labels)
                self.gradients[self.main.body.body] = start
                for binding in reversed(bindings):
                    if binding.var in self.gradients:
                        self.backward(binding.value, self.values[binding.var], self.gradients.pop(binding.var))
                output = self.builder.emit_output(relax.Tuple([losses, *self.clipped_sums(mask)]))
            self.builder.emit_func_output(output)
        return self.builder.get()

    def loss_and_gradient(self, logits: relax.Expr, labels: relax.Expr) -> tuple[relax.Expr, ...]:
        if self.loss is None:
            return self.pair(self.emit("cross_entropy", [logits, labels], scale=1 / self.views))
        self.values.update(zip(self.loss.params, (logits, labels), strict=True))
        for block in self.loss.body.blocks:
            for binding in block.bindings:
                value = binding.value
                if isinstance(value, relax.Call):
                    value = relax.Call(value.op, [self.get(arg) for arg in value.args], value.attrs, value.ty_args)
                else:
                    value = self.get(value)
                self.values[binding.var] = self.builder.emit(value)
        losses, gradient = self.pair(self.get(self.loss.body.body))
        share = relax.const(1 / self.views, dtype_of(gradient))
        return losses, gradient if self.views == 1 else self.builder.emit(relax.op.multiply(gradient, share))

    def follow_examples(self, binding: relax.Binding) -> None:
        """Every value computed from the input must keep the examples apart and in order; anything else is refused.

        The dialect's operators do, and so does any reshape: it leaves memory alone. A permutation must leave axis 0.
        """
        value = binding.value
        operands = value.args if isinstance(value, relax.Call) else [value]
        if not any(isinstance(arg, relax.Var) and arg in self.by_examples for arg in operands):
            return
        name = str(value.op.name) if isinstance(value, relax.Call) else "relax.reshape"
        kept = name.startswith("privlib.") or name == "relax.reshape"
        if name == "relax.permute_dims":
            kept = int(value.attrs.axes[0]) == 0 and shape_of(operands[0])[0] == self.batch
        if not kept:
            raise UnsupportedOperatorError(
                f"operator {name} may mix the examples of a batch, so a gradient per example is not known; "
                "keep the batch as the first axis and use supported layers"
            )
        self.by_examples.add(binding.var)

    def forward(self, value: relax.Expr) -> relax.Expr:
        """The same operator on translated operands; a convolution reads its input channel-last."""
        if not isinstance(value, relax.Call):
            return self.get(value)
        args, attributes = [self.get(arg) for arg in value.args], value.attrs
        if str(value.op.name) == "privlib.conv2d" and attributes["nchw"]:
            args[0] = self.channel_last(args[0])
            return dialect.call("conv2d", args, **{**dict(attributes.items()), "nchw": False})
        return relax.Call(value.op, args, attributes, value.ty_args)

    def split(self, value: relax.Expr) -> relax.Expr:
        """(rows, …, channels), `rows` a multiple of the number of examples → one row an example, its positions next."""
        shape = shape_of(value)
        examples = self.batch // self.views
        if shape[0] == examples:
            return value
        positions = math.prod(shape[:-1]) // examples
        return self.builder.emit(relax.op.reshape(value, (examples, positions, shape[-1])))

    def summed_positions(self, rows: relax.Expr) -> relax.Expr:
        """(rows, …, channels) → (examples, channels)."""
        split = self.split(rows)
        return split if len(shape_of(split)) == 2 else self.emit("position_sums", [split])

    def weight_site(self, parameter: relax.Expr, x: relax.Expr, g: relax.Expr, attributes: Mapping[str, Any]) -> None:
        if not self.trainable(parameter):
            return
        convolution = "kernel" in attributes
        pair = [x, g] if convolution else [self.split(x), self.split(g)]
        attributes = {**attributes, "views": self.views if convolution else 1}
        squares = None
        if self.clipping.kind != "none":
            squares = self.emit("weight_norm", pair, strategy="auto", parameter=str(parameter.name), **attributes)
        self.add_site(Site(parameter, squares, "weight_sum", pair, dict(attributes)))

    def vector_site(self, parameter: relax.Expr, rows: relax.Expr) -> None:
        """rows (…, channels): the gradient of a vector, position by position."""
        if self.trainable(parameter):
            summed = self.summed_positions(rows)
            squares = None if self.clipping.kind == "none" else self.emit("row_squares", [summed])
            self.add_site(Site(parameter, squares, "factor_sum", [summed]))

    def trainable(self, parameter: relax.Expr) -> bool:
        if not isinstance(parameter, relax.Var) or parameter not in set(self.main.params[1:]):
            raise CompileError(
                f"a weight is computed ({parameter}) instead of being a parameter itself, so its per-example gradient "
                "is not known; use the parameter directly or freeze it"
            )
        return str(parameter.name) not in self.frozen

    def add_site(self, site: Site) -> None:
        if site.parameter in self.sites:
            raise CompileError(
                f"parameter {site.parameter.name} is used in two places; their gradients would have to be added before "
                "the norm is taken, which is not supported: untie the weights or freeze them"
            )
        self.sites[site.parameter] = site

    def clipped_sums(self, mask: relax.Expr) -> list[relax.Expr]:
        """(squared norms, factors, a sum for each trainable parameter in the order of the parameters)."""
        order = [p for p in self.main.params[1:] if str(p.name) not in self.frozen]
        missing = [str(p.name) for p in order if p not in self.sites]
        if missing:
            names = ", ".join(missing)
            raise CompileError(f"parameters {names} are trainable but the loss does not depend on them; freeze them")
        if not order:
            raise CompileError("no parameter is trainable; set requires_grad on what should be trained")
        norms, factors = [], mask
        if self.clipping.kind != "none":
            squares = [self.sites[p].squares for p in order]
            clip = self.emit("clip", [*squares, mask], clipping=self.clipping.kind, bound=float(self.clipping.bound))
            *norms, factors = self.pair(clip)
        sums, by_image = [], factors
        if self.views > 1 and any("kernel" in self.sites[p].attributes for p in order):
            by_image = self.emit("repeat", [factors], views=self.views)
        for parameter in order:
            site = self.sites[parameter]
            own = by_image if "kernel" in site.attributes else factors
            sums.append(self.emit(site.sum_name, [*site.operands, own], **site.attributes))
        return [*norms, factors, *sums]
