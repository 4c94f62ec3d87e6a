"""Weight gradients and their norms, kernel by kernel, against PyTorch's own gradient of each example in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn import grad as torch_grad

from privlib.compiler.kernels import gram, weight_gradient
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, SENTINEL, Guarded, build

# float32: a few roundings of sums over the pixels of an image and, for norms, over all weights
TOLERANCE = {"float32": 5e-6, "float64": 1e-13}
SHAPES = {
    "plain 3x3": Conv2d(4, 8, 8, 16, 32, (3, 3), padding=(1, 1, 1, 1)),
    "odd everything": Conv2d(3, 9, 11, 5, 10, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2)),
    "first layer": Conv2d(2, 12, 12, 3, 20, (3, 3), padding=(1, 1, 1, 1)),
    "strided": Conv2d(2, 9, 9, 6, 12, (3, 3), (2, 2), (1, 1, 1, 1)),
    "pointwise": Conv2d(2, 5, 7, 9, 17, (1, 1)),
    "sequence": Conv2d(3, 1, 13, 10, 6, (1, 1)),
    "one pixel": Conv2d(3, 1, 1, 7, 9, (1, 1)),
    "batch of one": Conv2d(1, 4, 4, 8, 8, (3, 3), padding=(1, 1, 1, 1)),
}
GROUPED = {
    "grouped": Conv2d(3, 8, 8, 6, 20, (3, 3), padding=(1, 1, 1, 1), groups=2),
    "depthwise": Conv2d(2, 8, 8, 8, 8, (3, 3), padding=(1, 1, 1, 1), groups=8),
}


def operands(shape: Conv2d, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X NHWC, g NHWC, and the reference gradients (batch, taps, c_in / groups, c_out)."""
    random = np.random.default_rng(7)
    x = random.standard_normal((shape.batch, shape.height, shape.width, shape.c_in)).astype(dtype)
    g = random.standard_normal((shape.batch, shape.out_height, shape.out_width, shape.c_out)).astype(dtype)
    top, left, bottom, right = shape.padding
    padded = functional.pad(torch.from_numpy(x).double().permute(0, 3, 1, 2), (left, right, top, bottom))
    upstream = torch.from_numpy(g).double().permute(0, 3, 1, 2)
    size = (shape.c_out, shape.c_in // shape.groups, *shape.kernel)
    each = [
        torch_grad.conv2d_weight(
            padded[i : i + 1], size, upstream[i : i + 1], shape.stride, 0, shape.dilation, shape.groups
        )
        for i in range(shape.batch)
    ]
    one = weight_gradient.gradient_shape(shape)
    return x, g, torch.stack(each).permute(0, 3, 4, 2, 1).reshape(shape.batch, *one).numpy()


def call(function: object, inputs: list[np.ndarray], *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Run a kernel with any number of outputs, all of it between guard bands."""
    guarded = [Guarded(array, np.nan if array.dtype.kind == "f" else -1) for array in inputs]
    outputs = [Guarded(np.full(shape, np.nan, inputs[0].dtype), SENTINEL) for shape in shapes]
    function(*(each.tensor() for each in (*guarded, *outputs)))  # type: ignore[operator]
    for each in (*guarded, *outputs):
        each.check()
    return [output.values for output in outputs]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*SHAPES, *GROUPED])
def test_gradients_of_each_example_their_norms_and_the_weighted_sum(machine: Machine, name: str, dtype: str) -> None:
    shape = (SHAPES | GROUPED)[name]
    x, g, expected = operands(shape, dtype)
    factors = np.random.default_rng(8).random(shape.batch).astype(dtype)
    factors[-1] = 0.0
    one, tolerance = weight_gradient.gradient_shape(shape), TOLERANCE[dtype]
    modes = {mode: weight_gradient.weight_gradient(machine, dtype, shape, mode) for mode in weight_gradient.MODES}
    library = build(machine, **modes)
    squares = (expected**2).sum((1, 2, 3))

    gradients, norms = call(library["kept"], [x, g], (shape.batch, *one), (shape.batch,))
    assert error(gradients, expected) < tolerance
    assert error(norms, squares) < tolerance
    (norms,) = call(library["norm"], [x, g], (shape.batch,))
    assert error(norms, squares) < tolerance
    (sums,) = call(library["summed"], [x, g, factors], (machine.cores, *one))
    weighted = (expected * factors[:, None, None, None]).sum(0)
    assert error(sums.sum(0), weighted) < tolerance if shape.batch > 1 else not sums.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_gram_norms_equal_the_norms_of_the_gradients(machine: Machine, name: str, dtype: str) -> None:
    shape = SHAPES[name]
    x, g, expected = operands(shape, dtype)
    library = build(machine, norms=gram.squared_norms(machine, dtype, shape))
    (norms,) = call(library["norms"], [x, g], (shape.batch,))
    assert error(norms, (expected**2).sum((1, 2, 3))) < TOLERANCE[dtype]


@pytest.mark.parametrize("left", [0.0, 1e-4, 1e-3, 1e-2, 0.1])
def test_gram_norm_of_a_gradient_that_cancels_is_never_too_small(left: float) -> None:
    """An adversary's example: terms far larger than their sum. What is summed must not be larger than the norm says."""
    machine, shape = MACHINES["narrow"], SHAPES["pointwise"]
    x = np.full((shape.batch, shape.height, shape.width, shape.c_in), 1000.0, "float32")
    random = np.random.default_rng(9)
    g = random.standard_normal((shape.batch, shape.height, shape.width, shape.c_out)).astype("float32")
    g = (g - (1 - left) * g.mean((1, 2), keepdims=True)).astype("float32")
    library = build(machine, norms=gram.squared_norms(machine, "float32", shape))
    (norms,) = call(library["norms"], [x, g], (shape.batch,))
    exact = np.einsum("byxc,byxo->bco", x.astype("float64"), g.astype("float64"))
    assert ((exact**2).sum((1, 2)) ** 0.5 <= norms**0.5 * (1 + gram.margin("float32", shape))).all()


@pytest.mark.parametrize("name", ["plain 3x3", "strided", "sequence"])
def test_views_of_an_example_are_added_before_the_norm(machine: Machine, name: str) -> None:
    shape = replace(SHAPES[name], batch=6)
    x, g, expected = operands(shape, "float64")
    expected = expected.reshape(2, 3, *expected.shape[1:]).sum(1)
    squares = (expected**2).sum((1, 2, 3))
    library = build(
        machine,
        gram=gram.squared_norms(machine, "float64", shape, 3),
        kept=weight_gradient.weight_gradient(machine, "float64", shape, "kept", 3),
        norm=weight_gradient.weight_gradient(machine, "float64", shape, "norm", 3),
    )
    kept, kept_norms = call(library["kept"], [x, g], expected.shape, (2,))
    assert error(kept, expected) < 1e-13 and error(kept_norms, squares) < 1e-13
    for kind in ("gram", "norm"):
        assert error(call(library[kind], [x, g], (2,))[0], squares) < 1e-13
