"""What the JAX peers share: the case's network as a JAX function, made from the graph of the PyTorch module."""

import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from benchmarks.cases import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Case, Prepared
from privlib.errors import PrivlibError

Parameters = dict[str, Any]
Loss = Callable[[Parameters, Any, Any], Any]
# (parameters, state, learning rate, noise's standard deviation, images, labels) → parameters and state
Step = Callable[[Parameters, Any, Any, Any, Any, Any], tuple[Parameters, Any]]


def unavailable() -> str | None:
    """JAX is no dependency of privlib."""
    return None if find_spec("jax") else "jax not installed (pip install jax)."


def versions() -> dict[str, str]:
    """Versions of JAX and its compiler."""
    return {name: metadata.version(name) for name in ("jax", "jaxlib")}


def training(case: Case, step: Step, parameters: Parameters, state: Any, *, private: bool = False) -> Prepared:
    """The compiled step on the case's batch, at learning rate 1 without noise for the agreement, then as it is timed.

    One compilation serves both: learning rate and the noise's standard deviation are arguments.
    """
    jax = importlib.import_module("jax")
    compiled = jax.jit(step, donate_argnums=(0, 1))
    batch = (jax.numpy.asarray(case.input().transpose(0, 2, 3, 1)), jax.numpy.asarray(case.labels()))
    before = jax.device_get(jax.tree.map(lambda array: array.copy(), parameters))
    parameters, state = compiled(parameters, state, 1.0, 0.0, *batch)
    scale = case.batch_size if private else 1
    agreed = {name: _as_pytorch(scale * (before[name] - jax.device_get(p))) for name, p in parameters.items()}
    now = [jax.device_put(before), state]
    deviation = NOISE_MULTIPLIER * MAX_GRAD_NORM if private else 0.0

    def run() -> None:
        now[:] = compiled(*now, LEARNING_RATE, deviation, *batch)
        jax.block_until_ready(now)

    return Prepared(agreed, run)


def network(case: Case) -> tuple[Parameters, Loss]:
    """Parameters by name, convolutions as (kh, kw, in, out); mean cross-entropy of images NHWC and their labels."""
    jax = importlib.import_module("jax")
    fx = importlib.import_module("torch.fx")
    model = case.model()
    graph = fx.symbolic_trace(model)
    modules = dict(graph.named_modules())
    parameters = {
        name: jax.numpy.asarray(p.detach().numpy().transpose(2, 3, 1, 0) if p.ndim == 4 else p.detach().numpy())
        for name, p in model.named_parameters()
    }

    def loss(parameters: Parameters, images: Any, labels: Any) -> Any:
        values: dict[str, Any] = {}
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node.name] = images
            elif node.op == "output":
                scores = jax.nn.log_softmax(values[node.args[0].name])
            else:
                operands = [values[arg.name] for arg in node.args if isinstance(arg, fx.Node)]
                values[node.name] = _apply(jax, node, modules, parameters, operands)
        return -jax.numpy.take_along_axis(scores, labels[:, None], axis=1).mean()

    return parameters, loss


def descended(parameters: Parameters, gradient: Parameters, rate: Any) -> Parameters:
    """p − rate · gradient."""
    return {name: p - rate * gradient[name] for name, p in parameters.items()}


def _as_pytorch(array: Any) -> Any:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _apply(jax: Any, node: Any, modules: Mapping[str, Any], parameters: Parameters, operands: list[Any]) -> Any:
    """One node of the graph; spatial activations are NHWC."""
    x, name = operands[0], str(node.target)
    if node.op == "call_method" and name == "mean" and node.args[1:] == ((2, 3),):
        return x.mean((1, 2))
    if node.op == "call_function" and len(operands) == 2 and node.target.__name__ == "add":
        return x + operands[1]
    module: Any = modules.get(name)
    kind = type(module).__name__
    weight: Any = parameters.get(f"{name}.weight")
    bias = parameters.get(f"{name}.bias")
    if kind == "ReLU":
        return jax.nn.relu(x)
    if kind == "Identity":
        return x
    if kind == "Flatten":
        return (x.transpose(0, 3, 1, 2) if x.ndim == 4 else x).reshape(x.shape[0], -1)
    if kind == "Linear":
        return x @ weight.T + bias
    if kind == "MaxPool2d":
        window = (1, module.kernel_size, module.kernel_size, 1)
        return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, window, window, "VALID")
    if kind == "GroupNorm":
        grouped = x.reshape(*x.shape[:3], module.num_groups, -1)
        mean, variance = (f(grouped, axis=(1, 2, 4), keepdims=True) for f in (jax.numpy.mean, jax.numpy.var))
        return ((grouped - mean) * jax.lax.rsqrt(variance + module.eps)).reshape(x.shape) * weight + bias
    if kind == "Conv2d":
        padding = [(p, p) for p in module.padding]
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, weight, module.stride, padding, dimension_numbers=layout)
        return y if bias is None else y + bias
    raise PrivlibError(f"the JAX peers do not know {kind if module else name}; add it to {__name__}, or leave JAX out")
