"""Pooling, normalization and elementwise kernels alone, against PyTorch in float64."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from privlib.compiler.kernels import norm, pointwise, pool
from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.norm import GroupNorm
from privlib.compiler.kernels.pool import Pool2d
from privlib.compiler.kernels.shapes import Conv2d
from tests.compiler.kernel_harness import (
    MACHINES,
    NARROW,
    TOLERANCE,
    WIDE,
    assert_close,
    build,
    epilogue,
    epilogue_arguments,
    run,
)
from tests.compiler.test_kernels_backward import FUNCTIONS

DTYPES = ("float32", "float64")


def images(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64)).permute(0, 3, 1, 2)


def channel_last(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(0, 2, 3, 1).numpy()


# batch, height, width, channels, kernel, stride, symmetric padding, dilation (maximum only)
POOLS = {
    "2×2": (2, 6, 8, 19, (2, 2), (2, 2), (0, 0), (1, 1)),
    "odd side": (1, 7, 5, 16, (2, 2), (2, 2), (0, 0), (1, 1)),
    "overlapping, padded": (2, 5, 6, 3, (3, 3), (1, 1), (1, 1), (1, 1)),
    "uneven": (1, 9, 7, 33, (3, 2), (2, 1), (1, 0), (1, 1)),
    "one pixel": (1, 1, 1, 1, (1, 1), (1, 1), (0, 0), (1, 1)),
    "dilated": (1, 9, 8, 5, (3, 2), (2, 2), (1, 1), (2, 3)),
}


def window(name: str) -> Conv2d:
    batch, height, width, channels, size, stride, (top, left), dilation = POOLS[name]
    padding = (top, left, top, left)
    return Conv2d(batch, height, width, channels, channels, size, stride, padding, dilation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POOLS)
def test_maximum_never_sees_the_padding(name: str, dtype: str) -> None:
    batch, height, width, channels, size, stride, padding, dilation = POOLS[name]
    x = np.random.default_rng(1).standard_normal((batch, height, width, channels)).astype(dtype) - 50  # zero would win
    expected = channel_last(F.max_pool2d(images(x), size, stride, padding, dilation))
    found = run(build(NARROW, k=pool.pool2d(NARROW, dtype, Pool2d("max", window(name))))["k"], [x], expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in POOLS if name != "dilated"])
def test_average(name: str, dtype: str, counted: bool) -> None:
    batch, height, width, channels, size, stride, padding, _ = POOLS[name]
    x = np.random.default_rng(1).standard_normal((batch, height, width, channels)).astype(dtype)
    expected = channel_last(F.avg_pool2d(images(x), size, stride, padding, count_include_pad=counted))
    found = run(build(WIDE, k=pool.pool2d(WIDE, dtype, Pool2d("avg", window(name), counted)))["k"], [x], expected.shape)
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 7, 5, 19), (2, 32, 32, 64)])
def test_spatial_mean(shape: tuple[int, ...], dtype: str) -> None:
    x = (np.random.default_rng(1).standard_normal(shape) + 3).astype(dtype)
    found = run(build(WIDE, k=pool.spatial_mean(WIDE, dtype, shape))["k"], [x], (shape[0], shape[-1]))
    assert_close(found, x.astype(np.float64).mean((1, 2)), TOLERANCE[dtype])


NORMS = {
    "one pixel": (GroupNorm((1, 1, 1, 4), 2, 1e-5), Epilogue()),
    "remainders": (GroupNorm((3, 5, 7, 21), 3, 1e-5), Epilogue(residual=True, activation="relu")),
    "one group": (GroupNorm((2, 4, 4, 16), 1, 1e-3), Epilogue(activation="relu6")),
    "a group each": (GroupNorm((2, 6, 6, 40), 40, 1e-5), Epilogue()),
    "flat": (GroupNorm((6, 24), 4, 1e-5), Epilogue(activation="relu")),
    "large image": (GroupNorm((1, 28, 28, 32), 8, 1e-5), Epilogue(residual=True)),
    "last axis": (GroupNorm((3, 5, 19), 1, 1e-5, "row"), Epilogue(residual=True)),
    "last axis, flat": (GroupNorm((7, 33), 1, 1e-6, "row"), Epilogue()),
}


@pytest.mark.parametrize(("dtype", "tile"), [("float32", 0), ("float64", 1)])
@pytest.mark.parametrize("name", NORMS)
def test_normalization(name: str, dtype: str, tile: int) -> None:
    machine = list(MACHINES.values())[(list(NORMS).index(name) + tile) % 2]
    (case, steps), random = NORMS[name], np.random.default_rng(2)
    x = (random.standard_normal(case.shape) + 2).astype(dtype)
    gamma, beta = (random.standard_normal(case.shape[-1:]).astype(dtype) for _ in range(2))
    wide = [torch.from_numpy(array.astype(np.float64)) for array in (x, gamma, beta)]
    if case.axes == "row":
        expected = F.layer_norm(wide[0], case.shape[-1:], wide[1], wide[2], case.epsilon).numpy()
    else:
        result = F.group_norm(wide[0].movedim(-1, 1), case.groups, wide[1], wide[2], case.epsilon)
        expected = result.movedim(1, -1).numpy()
    extras = epilogue_arguments(steps, case.shape, dtype, random)
    function = build(machine, k=norm.group_norm(machine, dtype, case, steps))["k"]
    found = run(function, [x, gamma, beta, *extras.values()], case.shape)
    assert_close(found, epilogue(expected, steps, extras), TOLERANCE[dtype])


def test_group_norm_keeps_its_accuracy_far_from_zero() -> None:
    """E[x²] − E[x]² would lose every digit here; the variance is taken about the mean."""
    case, random = GroupNorm((2, 16, 16, 16), 4, 1e-5), np.random.default_rng(4)
    x = (1e4 + random.standard_normal(case.shape)).astype(np.float32)
    ones, zeros = np.ones(16, np.float32), np.zeros(16, np.float32)
    function = build(NARROW, k=norm.group_norm(NARROW, "float32", case, Epilogue()))["k"]
    expected = channel_last(F.group_norm(images(x), 4, eps=1e-5))
    # the mean itself is a float32 near 1e4, exact to 5e-4
    assert_close(run(function, [x, ones, zeros], case.shape), expected, 2e-3)


def test_one_value_a_group_normalizes_to_beta() -> None:
    """GroupNorm with as many groups as channels on (B, C): nothing to normalise, the output is beta exactly."""
    x = np.random.default_rng(4).standard_normal((6, 4)).astype(np.float32)
    gamma, beta = np.full(4, 3, np.float32), np.arange(4, dtype=np.float32)
    function = build(NARROW, k=norm.group_norm(NARROW, "float32", GroupNorm((6, 4), 4, 1e-5), Epilogue()))["k"]
    np.testing.assert_array_equal(run(function, [x, gamma, beta], (6, 4)), np.broadcast_to(beta, (6, 4)))


REFERENCES: dict[str, Callable[..., torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "shift": lambda x: x - 1.75,
    "scale": lambda x: x * -1.75,
    "affine": lambda x, scale, shift: x * scale + shift,
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
OPERANDS = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "affine": 3}
SIZES = {"full": (3, 5, 7, 19), "channel": (19,), "row": (3, 5, 7, 1)}


def test_every_formula_is_tested() -> None:
    gradients = {f"{name}_gradient" for name in FUNCTIONS}
    assert set(REFERENCES) | gradients == set(pointwise.FORMULAS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("formula", "kinds"),
    [
        (formula, ("full", *kinds))
        for formula in REFERENCES
        for kinds in itertools.product(SIZES, repeat=OPERANDS.get(formula, 1) - 1)
    ],
)
def test_elementwise(formula: str, kinds: tuple[str, ...], dtype: str) -> None:
    shape, random = SIZES["full"], np.random.default_rng(6)
    inputs = [(4 * random.standard_normal(SIZES[kind])).astype(dtype) for kind in kinds]
    scalar = {"shift": -1.75, "scale": -1.75}.get(formula)
    assert pointwise.operand_kinds(shape, [each.shape for each in inputs]) == list(kinds)
    if formula == "sqrt":
        inputs = [np.abs(each) for each in inputs]
    expected = REFERENCES[formula](*(torch.from_numpy(each.astype(np.float64)) for each in inputs)).numpy()
    function = build(WIDE, k=pointwise.elementwise(WIDE, dtype, shape, formula, kinds, scalar))["k"]
    assert_close(run(function, inputs, shape), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("formula", ["tanh", "sigmoid", "gelu", "gelu_tanh"])
def test_functions_saturate_instead_of_overflowing(formula: str) -> None:
    x = np.array([[-1e30, -1e4, -100, -20, 0, 20, 100, 1e4, 1e12]], np.float32)
    function = build(NARROW, k=pointwise.elementwise(NARROW, "float32", x.shape, formula, ["full"]))["k"]
    expected = REFERENCES[formula](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(function, [x], x.shape), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("formula", ["relu", "relu6"])
def test_not_a_number_stays_not_a_number(formula: str) -> None:
    """As in PyTorch: a ReLU that swallowed NaN would turn a broken input into plausible logits."""
    x = np.arange(-4, 5, dtype=np.float32).reshape(1, 9)
    x[0, [0, 8]] = np.nan
    function = build(NARROW, k=pointwise.elementwise(NARROW, "float32", x.shape, formula, ["full"]))["k"]
    np.testing.assert_array_equal(run(function, [x], x.shape), REFERENCES[formula](torch.from_numpy(x)).numpy())


def test_a_maximum_over_not_a_number_is_not_a_number() -> None:
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[0, 1, 0, 1] = np.nan
    shape = Conv2d(1, 4, 4, 3, 3, (2, 2), (2, 2))
    found = run(build(NARROW, k=pool.pool2d(NARROW, "float32", Pool2d("max", shape)))["k"], [x], (1, 2, 2, 3))
    np.testing.assert_array_equal(found, channel_last(F.max_pool2d(images(x), 2)))
