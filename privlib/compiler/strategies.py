"""How each weight's per-example gradient norms are taken: the pass gives every `weight_norm` its strategy.

goodfellow   one position an example: ‖x‖²·‖g‖², nothing is formed
gram         ⟨P, ⟨g, g⟩⟩ with the pixel Gram matrix's shifted views: no gradient is formed
instantiate  the gradient of each example is formed. Where the memory budget allows it is kept, so that the clipped sum
             is a weighted sum of what is there; elsewhere it is dropped and the sum formed anew
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from tvm import relax

from privlib.compiler import costs, dialect
from privlib.compiler.dialect import dtype_of, shape_of
from privlib.compiler.errors import CompileError
from privlib.compiler.kernels import gram
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

NAMES = ("goodfellow", "gram", "instantiate")
KEPT_SHARE = 0.45  # memory that keeping may cost, as a share of the activations and gradients held for the weights


@dataclass(frozen=True)
class Choice:
    """A weight's strategy, whether its gradients are kept, and its margin η (`gram.margin`, else 0)."""

    strategy: str
    kept: bool
    margin: float


def choose(
    module: tvm.IRModule, machine: Machine, override: str | Mapping[str, str] = "auto"
) -> tuple[tvm.IRModule, dict[str, Choice]]:
    """The pass, and each weight's choice by parameter name.

    override: "auto" (by the cost model), one of NAMES for every weight it applies to, or a name for each of some
    parameters. CompileError for an unknown name or parameter, or where a strategy named for a parameter does not apply.
    """
    return _Chooser(module["main"], machine, override).run()


class _Chooser:
    def __init__(self, main: relax.Function, machine: Machine, override: str | Mapping[str, str]) -> None:
        self.main, self.machine, self.override = main, machine, override
        self.builder = relax.BlockBuilder()
        self.values: dict[relax.Var, relax.Expr] = {}
        self.kept: dict[tuple[relax.Var, ...], relax.Expr] = {}
        self.bindings = [binding for block in main.body.blocks for binding in block.bindings]
        self.repeated = {b.var: b.value.args[0] for b in self.bindings if _is(b.value, "repeat")}
        sites = [b.value for b in self.bindings if _is(b.value, "weight_norm")]
        self._check_names({str(site.attrs["parameter"]) for site in sites})
        self.choices = self._choose(sites)

    def _choose(self, sites: list[relax.Call]) -> dict[str, Choice]:
        """The strategy of each site, and what is kept: where it saves most for its bytes first, until the budget is
        spent."""
        choices: dict[str, Choice] = {}
        savings: list[tuple[float, int, str]] = []
        for site in sites:
            (x, g), a = site.args, site.attrs
            name, views, dtype = str(a["parameter"]), int(a["views"]), dtype_of(x)
            shape = dialect.site_shape(shape_of(x), shape_of(g), a)
            strategy = self._strategy(name, shape, views, dtype)
            choices[name] = Choice(strategy, False, gram.margin(dtype, shape, views) if strategy == "gram" else 0.0)
            if "kernel" in a and shape.groups == 1 and (strategy == "instantiate" or self._wanted(name) == "auto"):
                saved = costs.keeping_saves(self.machine, dtype, shape, views, strategy)
                one = math.prod(dialect.kept_shape(shape_of(x), shape_of(g), a)) * (8 if dtype == "float64" else 4)
                more = max(0, one * shape.batch // views - _bytes(g))  # once kept, g itself is no longer needed
                if saved > 0:
                    savings.append((saved / max(1, more), more, name))
        budget = KEPT_SHARE * sum(_bytes(arg) for arg in {arg for site in sites for arg in site.args})
        for _, size, name in sorted(savings, reverse=True):
            if size <= budget:
                budget -= size
                choices[name] = Choice("instantiate", True, 0.0)
        return choices

    def _check_names(self, parameters: set[str]) -> None:
        wanted = self.override
        named = {} if isinstance(wanted, str) else dict(wanted)
        for strategy in [wanted] if isinstance(wanted, str) else named.values():
            if strategy not in (*NAMES, "auto"):
                raise CompileError(f"unknown norm strategy {strategy!r}; use 'auto' or one of {', '.join(NAMES)}")
        unknown = sorted(set(named) - parameters)
        if unknown:
            raise CompileError(
                f"norm_strategy names {', '.join(unknown)}, which is no trainable weight; "
                f"the weights are {', '.join(sorted(parameters))}"
            )

    def run(self) -> tuple[tvm.IRModule, dict[str, Choice]]:
        parameters = [relax.Var(p.name, p.ty) for p in self.main.params]
        self.values.update(zip(self.main.params, parameters, strict=True))
        with self.builder.function("main", parameters, attrs=dict(self.main.attrs.items())):
            with self.builder.dataflow():
                for binding in self.bindings:
                    self.values[binding.var] = self.builder.emit(self.visit(binding.value))
                output = self.builder.emit_output(self.get(self.main.body.body))
            self.builder.emit_func_output(output)
        return self.builder.get(), self.choices

    def visit(self, value: relax.Expr) -> relax.Expr:
        if _is(value, "weight_norm"):
            return self.norm(value)
        if _is(value, "weight_sum") and tuple(value.args[:2]) in self.kept:
            factors = self.repeated.get(value.args[2], value.args[2])  # one an example, not one a view
            operands = [self.kept[tuple(value.args[:2])], self.get(factors)]
            return dialect.call("kept_sum", operands, kernel=list(value.attrs["kernel"]))
        if isinstance(value, relax.Call):
            return relax.Call(value.op, [self.get(arg) for arg in value.args], value.attrs, value.ty_args)
        return self.get(value)

    def get(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.get(part) for part in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self.get(value.tuple_value), value.index)
        return self.values.get(value, value) if isinstance(value, relax.Var) else value

    def norm(self, call: relax.Call) -> relax.Expr:
        x, g = call.args
        choice = self.choices[str(call.attrs["parameter"])]
        args, attributes = [self.get(x), self.get(g)], {**dict(call.attrs.items()), "strategy": choice.strategy}
        if not choice.kept:
            return dialect.call("weight_norm", args, **attributes)
        both = self.builder.emit(dialect.call("weight_norm_kept", args, **attributes))
        self.kept[(x, g)] = self.builder.emit(relax.TupleGetItem(both, 1))
        return relax.TupleGetItem(both, 0)

    def _wanted(self, name: str) -> str:
        return self.override if isinstance(self.override, str) else self.override.get(name, "auto")

    def _strategy(self, name: str, shape: Conv2d, views: int, dtype: str) -> str:
        wanted = self._wanted(name)
        possible = [each for each in NAMES if _applies(each, shape, views)]
        if wanted in possible:
            return wanted
        if wanted != "auto" and not isinstance(self.override, str):
            raise CompileError(
                f"norm strategy {wanted} does not apply to {name}; use 'auto' or one of {', '.join(possible)}"
            )
        return costs.choose_norm(self.machine, dtype, shape, views)


def _applies(strategy: str, shape: Conv2d, views: int) -> bool:
    if strategy == "goodfellow":
        return shape.out_height * shape.out_width == 1 and shape.kernel == (1, 1) and shape.groups == views == 1
    return strategy == "instantiate" or gram.applies(shape)


def _is(value: relax.Expr, name: str) -> bool:
    return isinstance(value, relax.Call) and str(value.op.name) == f"privlib.{name}"


def _bytes(value: relax.Expr) -> int:
    return math.prod(shape_of(value)) * (8 if dtype_of(value) == "float64" else 4)
