"""PyTorch → Relax: torch.export, a check that every operator is one the passes know, then TVM's own importer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from privlib.compiler.errors import CompileError
from privlib.compiler.support import check_operators


@dataclass(frozen=True)
class Imported:
    """A model as Relax: function main(input, parameters…) in PyTorch's layouts, and its parameters by state_dict name,
    in order."""

    module: tvm.IRModule
    parameters: dict[str, np.ndarray]


def import_model(model: torch.nn.Module, batch_size: int, input_shape: Sequence[int]) -> Imported:
    """Export `model` in evaluation mode for inputs float32 (batch_size, *input_shape).

    Raises UnsupportedOperatorError naming the operator and the submodule it is in; CompileError where torch.export
    itself refuses, or the batch or an extent is not positive. The model's training flags are restored.
    """
    if batch_size < 1 or any(extent < 1 for extent in input_shape):
        raise CompileError(f"batch size and input shape must be positive, got {batch_size} and {tuple(input_shape)}")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise CompileError(
                f"{name} is {tensor.dtype}; only float32 is compiled: convert the model with model.float()"
            )
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        example = torch.zeros(batch_size, *input_shape)
        try:
            with warnings.catch_warnings():
                # PyTorch's own use of what it has deprecated
                warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
                program = torch.export.export(model, (example,)).run_decompositions()
        except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
            raise CompileError(f"torch.export refused the model for input {tuple(example.shape)}: {error}") from error
    finally:
        for module, training in flags:
            module.training = training
    if not program.call_spec.out_spec.is_leaf():
        raise CompileError("the model does not return one tensor; wrap it so that it returns one (the logits)")
    check_operators(program)
    module = from_exported_program(
        program,
        keep_params_as_input=True,
        run_ep_decomposition=False,
        custom_convert_map={"native_group_norm.default": _group_norm},
    )
    main = module["main"]
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    arrays = [np.asarray(value.numpy()) for value in main.attrs["params"]] if "params" in main.attrs else []
    hints = [str(variable.name) for variable in main.params[1:]]
    parameters = {names.get(hint, hint): array for hint, array in zip(hints, arrays, strict=True)}
    lifted, constants = _constants_to_parameters(main, names)
    return Imported(tvm.IRModule({"main": lifted}), {**parameters, **constants})


def _group_norm(node: torch.fx.Node, importer: Any) -> relax.Var:
    """native_group_norm(x, weight, bias, N, C, HxW, groups, epsilon); TVM's own takes no None for weight and bias."""
    arguments: Any = node.args
    x, channels = importer.env[arguments[0]], arguments[4]
    gamma, beta = (
        importer.env[arg] if arg is not None else relax.const(np.full(channels, missing, np.float32))
        for arg, missing in zip(arguments[1:3], (1.0, 0.0), strict=True)
    )
    axes = list(range(2, len(x.ty.shape)))
    groups, epsilon = arguments[6], arguments[7]
    return importer.block_builder.emit(relax.op.nn.group_norm(x, gamma, beta, groups, 1, axes, epsilon))


def _constants_to_parameters(
    main: relax.Function, names: Mapping[str, str]
) -> tuple[relax.Function, dict[str, np.ndarray]]:
    """Append every tensor constant (such as running statistics) to the parameters: code depends on shapes alone.

    Parameters get their `state_dict` names, so that messages name what the user knows.
    """
    renamed = {p: relax.Var(names.get(str(p.name), str(p.name)), p.ty) for p in main.params}
    found: dict[str, np.ndarray] = {}
    variables: list[relax.Var] = []

    def substitute(arg: relax.Expr) -> relax.Expr:
        data = getattr(arg, "value", None)
        if not isinstance(data, tvm.runtime.Tensor) or not data.shape:
            return arg
        name = f"constant{len(variables)}"
        found[name] = data.numpy()
        variables.append(relax.Var(name, relax.TensorType(tuple(int(e) for e in data.shape), str(data.dtype))))
        return variables[-1]

    @relax.expr_functor.mutator
    class Substitution(relax.PyExprMutator):
        def visit_var_(self, variable: relax.Var) -> relax.Expr:
            return renamed.get(variable, variable)

        def visit_call_(self, call: relax.Call) -> relax.Expr:
            return relax.Call(
                call.op, [substitute(self.visit_expr(arg)) for arg in call.args], call.attrs, call.ty_args
            )

    body = Substitution().visit_expr(main.body)
    return relax.Function([*renamed.values(), *variables], body, main.ret_ty), found
