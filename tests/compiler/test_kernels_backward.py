"""Gradients of everything that is not a convolution, kernel by kernel, against PyTorch's autograd in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from privlib.compiler.kernels import loss, norm_gradient, pointwise, pool_gradient
from privlib.compiler.kernels.norm import GroupNorm
from privlib.compiler.kernels.pool import Pool2d
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build
from tests.compiler.test_kernels_gradient import call

TOLERANCE = {"float32": 5e-6, "float64": 1e-12}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def draw(*shape: int, dtype: str, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double().requires_grad_()


def close(found: np.ndarray, expected: torch.Tensor, dtype: str) -> None:
    reference = expected.detach().numpy()
    assert np.linalg.norm(found - reference) <= TOLERANCE[dtype] * max(float(np.linalg.norm(reference)), 1.0)


@DTYPES
@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 5, 12), 4), ((2, 8, 8, 16), 8), ((4, 10), 2), ((2, 3, 3, 6), 6)])
def test_group_norm_gradient(machine: Machine, shape: tuple[int, ...], groups: int, dtype: str) -> None:
    norm = GroupNorm(shape, groups, 1e-5)
    x, g, gamma = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=4), draw(shape[-1], dtype=dtype, seed=5)
    library = build(machine, f=norm_gradient.group_norm_gradient(machine, dtype, norm))
    rows = (shape[0], shape[-1])
    dx, dgamma, dbeta = call(library["f"], [x, gamma, g], shape, rows, rows)
    for i in range(shape[0]):  # one example at a time: the reference for each example's own gradient
        inputs, scale, shift = double(x[i : i + 1]), double(gamma), double(np.zeros_like(gamma))
        output = functional.group_norm(inputs.movedim(-1, 1), groups, scale, shift).movedim(1, -1)
        output.backward(torch.from_numpy(g[i : i + 1]).double())
        for found, expected in ((dx[i : i + 1], inputs), (dgamma[i], scale), (dbeta[i], shift)):
            assert expected.grad is not None
            close(found, expected.grad, dtype)


@DTYPES
def test_layer_norm_gradient(machine: Machine, dtype: str) -> None:
    shape = (3, 5, 11)
    x, g, gamma = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=4), draw(11, dtype=dtype, seed=5)
    library = build(machine, f=norm_gradient.group_norm_gradient(machine, dtype, GroupNorm(shape, 1, 1e-5, "row")))
    dx, dgamma, dbeta = call(library["f"], [x, gamma, g], shape, (15, 11), (15, 11))
    inputs, scale, shift = double(x), double(gamma), double(np.zeros_like(gamma))
    functional.layer_norm(inputs, (11,), scale, shift).backward(torch.from_numpy(g).double())
    for found, expected in ((dx, inputs), (dgamma.sum(0), scale), (dbeta.sum(0), shift)):
        assert expected.grad is not None
        close(found, expected.grad, dtype)


POOLS = {
    "2x2": Conv2d(2, 8, 6, 12, 12, (2, 2), (2, 2)),
    "overlapping, padded": Conv2d(2, 7, 9, 5, 5, (3, 3), (2, 2), (1, 1, 1, 1)),
    "stride one": Conv2d(1, 4, 4, 3, 3, (3, 3), (1, 1), (1, 1, 1, 1)),
}


@DTYPES
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("kind", ["max", "avg", "avg without padding"])
def test_pool_gradient(machine: Machine, name: str, kind: str, dtype: str) -> None:
    w = POOLS[name]
    pool = Pool2d(kind[:3], w, kind == "avg")
    x = np.round(draw(w.batch, w.height, w.width, w.c_in, dtype=dtype) * 2) / 2  # ties: the first place must win
    g = draw(w.batch, w.out_height, w.out_width, w.c_in, dtype=dtype, seed=4)
    library = build(machine, f=pool_gradient.pool2d_gradient(machine, dtype, pool))
    (found,) = call(library["f"], [x, g], x.shape)
    inputs = double(x)
    options = {"kernel_size": w.kernel, "stride": w.stride, "padding": w.padding[0]}
    chosen: Callable[..., torch.Tensor] = functional.max_pool2d if kind == "max" else functional.avg_pool2d
    more = {} if kind == "max" else {"count_include_pad": pool.count_include_pad}
    chosen(inputs.permute(0, 3, 1, 2), **options, **more).permute(0, 2, 3, 1).backward(torch.from_numpy(g).double())
    assert inputs.grad is not None
    close(found, inputs.grad, dtype)


def test_average_pool_gradient_counts_padding_as_torch_does() -> None:
    """Case 21, its gradient: AvgPool2d(3, stride=1, padding=1) on ones(1, 1, 4, 4), every window weighted 1/9."""
    pool = Pool2d("avg", Conv2d(1, 4, 4, 1, 1, (3, 3), (1, 1), (1, 1, 1, 1)), True)
    library = build(MACHINES["narrow"], f=pool_gradient.pool2d_gradient(MACHINES["narrow"], "float32", pool))
    ones = np.ones((1, 4, 4, 1), "float32")
    (found,) = call(library["f"], [ones, ones], ones.shape)
    expected = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]) / 9
    np.testing.assert_allclose(found[0, :, :, 0], expected, rtol=1e-6)


@DTYPES
def test_spatial_mean_gradient(machine: Machine, dtype: str) -> None:
    g = draw(3, 10, dtype=dtype)
    library = build(machine, f=pool_gradient.spatial_mean_gradient(machine, dtype, (3, 4, 5, 10)))
    (found,) = call(library["f"], [g], (3, 4, 5, 10))
    np.testing.assert_allclose(found, np.broadcast_to(g[:, None, None] / 20, found.shape), rtol=1e-6)


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


@DTYPES
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementwise_gradient(machine: Machine, name: str, dtype: str) -> None:
    shape = (4, 3, 11)
    x, g = 3 * draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=4)
    x[0, 0, :3] = (0.0, 6.0, -0.0)
    inputs = double(x)
    output = FUNCTIONS[name](inputs)
    output.backward(torch.from_numpy(g).double())
    formula = pointwise.elementwise(machine, dtype, shape, f"{name}_gradient", ["full", "full"])
    second = x if name.startswith("gelu") else output.detach().numpy().astype(dtype)
    (found,) = call(build(machine, f=formula)["f"], [g, second], shape)
    assert inputs.grad is not None
    close(found, inputs.grad, dtype)


@DTYPES
def test_cross_entropy_of_each_example_and_its_gradient(machine: Machine, dtype: str) -> None:
    logits, labels = 5 * draw(6, 10, dtype=dtype), np.array([0, 9, 3, 3, 7, 1], "int64")
    logits[0] = 1000 * np.arange(10)  # no overflow, and a loss of 9000
    library = build(machine, f=loss.cross_entropy(machine, dtype, 6, 10))
    losses, gradient = call(library["f"], [logits, labels], (6,), (6, 10))
    inputs = double(logits)
    expected = functional.cross_entropy(inputs, torch.from_numpy(labels), reduction="none")
    expected.sum().backward()
    assert inputs.grad is not None
    close(losses, expected, dtype)
    close(gradient, inputs.grad, dtype)
