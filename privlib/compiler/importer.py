"""PyTorch → Relax: torch.export, a check that every operator is one the passes know, then TVM's own importer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from privlib.compiler.errors import CompileError, UnsupportedOperatorError

# Core ATen operators that `canonicalize` turns into privlib's dialect or passes on unchanged (overload names left out).
SUPPORTED = frozenset(
    "convolution conv2d linear addmm mm matmul relu relu_ hardtanh hardtanh_ tanh sigmoid gelu sqrt add add_ sub mul div getitem "
    "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d mean "
    "batch_norm _native_batch_norm_legit_no_training group_norm native_group_norm layer_norm native_layer_norm "
    "view _unsafe_view reshape flatten permute t transpose unsqueeze squeeze cat slice pad constant_pad_nd clone contiguous dropout alias "
    "expand alias_copy detach".split()
)


@dataclass(frozen=True)
class Imported:
    """A model as Relax: function main(input, parameters…) in PyTorch's layouts, and its parameters by state_dict name, in order."""

    module: tvm.IRModule
    parameters: dict[str, np.ndarray]


def import_model(model: torch.nn.Module, batch_size: int, input_shape: Sequence[int]) -> Imported:
    """Export `model` in evaluation mode for inputs float32 (batch_size, *input_shape).

    Raises UnsupportedOperatorError naming the operator and the submodule it is in; CompileError where torch.export itself refuses, or
    the batch or an extent is not positive. The model's training flags are restored.
    """
    if batch_size < 1 or any(extent < 1 for extent in input_shape):
        raise CompileError(f"batch size and input shape must be positive, got {batch_size} and {tuple(input_shape)}")
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        example = torch.zeros(batch_size, *input_shape)
        try:
            program = torch.export.export(model, (example,)).run_decompositions()
        except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
            raise CompileError(f"torch.export refused the model for input {tuple(example.shape)}: {error}") from error
    finally:
        for module, training in flags:
            module.training = training
    _check_operators(program)
    module = from_exported_program(program, keep_params_as_input=True, run_ep_decomposition=False)
    main = module["main"]
    names = program.graph_signature.inputs_to_parameters
    arrays = [np.asarray(value.numpy()) for value in main.attrs["params"]] if "params" in main.attrs else []
    hints = [str(variable.name) for variable in main.params[1:]]
    parameters = {names.get(hint, hint): array for hint, array in zip(hints, arrays, strict=True)}
    lifted, constants = _constants_to_parameters(main)
    return Imported(tvm.IRModule({"main": lifted}), {**parameters, **constants})


def _constants_to_parameters(main: relax.Function) -> tuple[relax.Function, dict[str, np.ndarray]]:
    """Append every tensor constant (buffers such as running statistics) to the parameters: the code then depends on shapes alone."""
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
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            return relax.Call(call.op, [substitute(self.visit_expr(arg)) for arg in call.args], call.attrs, call.ty_args)

    body = Substitution().visit_expr(main.body)
    return relax.Function([*main.params, *variables], body, main.ret_ty), found


def _check_operators(program: torch.export.ExportedProgram) -> None:
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name not in SUPPORTED:
            raise UnsupportedOperatorError(
                f"operator {node.target} in {place_of(node)} is not supported; express it with convolutions, linear layers, "
                "normalization, pooling, elementwise functions, reshapes, or compile the part of the model before it"
            )


def place_of(node: torch.fx.Node) -> str:
    """The submodule a node comes from, as `name (Class)`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the model"
    path, kind = stack[-1][0], stack[-1][1]
    kind_name = kind.__name__ if isinstance(kind, type) else str(kind).rsplit(".", 1)[-1]
    return f"module '{path or 'model'}' ({kind_name})"
