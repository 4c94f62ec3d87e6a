"""Means over cells, two-sided rectification, sums of rows and products with few outputs, against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from privlib.compiler.kernels import cells, matmul, narrow, rows
from privlib.compiler.kernels.cells import Rectified
from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import (
    MACHINES,
    TOLERANCE,
    assert_close,
    build,
    epilogue,
    epilogue_arguments,
    run,
)
from tests.compiler.test_kernels_gradient import call

DTYPES = ("float32", "float64")
GRIDS = {"even": ((2, 6, 4, 19), (3, 2)), "uneven": ((1, 27, 27, 5), (2, 2)), "more": ((1, 5, 7, 3), (4, 3)),
         "one cell": ((1, 4, 3, 16), (1, 1)), "every position": ((2, 3, 4, 2), (3, 4))}  # fmt: skip


def draw(*shape: int, dtype: str, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def pooled(x: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    images = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(images, grid).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRIDS)
def test_cells_are_those_of_adaptive_average_pooling(name: str, dtype: str) -> None:
    shape, grid = GRIDS[name]
    x = draw(*shape, dtype=dtype)
    for machine in MACHINES.values():
        function = build(machine, k=cells.cell_means(machine, dtype, shape, grid))["k"]
        assert_close(run(function, [x], (shape[0], *grid, shape[3])), pooled(x, grid), TOLERANCE[dtype])


def sides(z: np.ndarray, threshold: float) -> np.ndarray:
    return np.concatenate([np.maximum(z - threshold, 0), np.maximum(-z - threshold, 0)], -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("channels", [3, 16, 37])
def test_two_sided_rectification(machine: Machine, dtype: str, channels: int) -> None:
    x = draw(2, 3, channels, dtype=dtype)
    function = build(machine, k=cells.two_sided(machine, dtype, x.shape, 0.25))["k"]
    assert_close(run(function, [x], (2, 3, 2 * channels)), sides(x.astype(np.float64), 0.25), TOLERANCE[dtype])


def test_two_sided_rectification_keeps_not_a_number() -> None:
    machine, x = MACHINES["narrow"], np.array([[np.nan, 1.0, -1.0, 0.1]], np.float32)
    found = run(build(machine, k=cells.two_sided(machine, "float32", x.shape, 0.25))["k"], [x], (1, 8))
    np.testing.assert_array_equal(found, [[np.nan, 0.75, 0, 0, np.nan, 0, 0.75, 0]])


# batch, height, width, c_in, c_out, cells
MAPS = {
    "whole blocks": (2, 4, 6, 9, 64, (1, 2)),
    "uneven cells": (3, 7, 27, 5, 32, (2, 2)),
    "a narrow last block": (2, 5, 5, 4, 75, (1, 3)),
    "one narrow block": (1, 3, 13, 7, 10, (1, 2)),
    "one position": (2, 1, 1, 3, 33, (1, 1)),
}


@pytest.mark.parametrize(("name", "dtype", "bias"), [(name, DTYPES[i % 2], i % 3 > 0) for i, name in enumerate(MAPS)])
def test_rectified_means_are_those_of_the_product(name: str, dtype: str, bias: bool) -> None:
    batch, height, width, c_in, c_out, grid = MAPS[name]
    what = Rectified(batch, height, width, c_in, c_out, grid, 0.3, bias)
    x, weight = draw(batch, height, width, c_in, dtype=dtype), draw(c_out, c_in, dtype=dtype, seed=2)
    vector = draw(c_out, dtype=dtype, seed=3)
    z = x.astype(np.float64) @ weight.T.astype(np.float64) + (vector if bias else 0)
    for machine in MACHINES.values():
        library = build(
            machine,
            pack=matmul.pack_weights(machine, dtype, what.product),
            k=cells.rectified_means(machine, dtype, what),
        )
        packed = run(library["pack"], [weight], matmul.packed_shape(machine, dtype, what.product))
        inputs = [x, packed, *([vector] if bias else [])]
        found = run(library["k"], inputs, (batch, *grid, 2 * c_out))
        assert_close(found, pooled(sides(z, 0.3), grid), 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 5, 16, 100])
def test_row_sums(channels: int, dtype: str) -> None:
    x = draw(3, 2, channels, dtype=dtype) + 1
    for machine in MACHINES.values():
        function = build(machine, k=rows.row_sum(machine, dtype, x.shape, 0.5))["k"]
        expected = 0.5 * x.astype(np.float64).sum(-1, keepdims=True)
        assert_close(run(function, [x], (3, 2, 1)), expected, TOLERANCE[dtype])


EPILOGUES = (Epilogue(), Epilogue(bias=True, residual=True, activation="relu"))


@pytest.mark.parametrize("steps", EPILOGUES, ids=["bare", "whole epilogue"])
@pytest.mark.parametrize(("dtype", "outputs"), [("float32", 1), ("float64", 3), ("float32", 10)])
def test_products_with_few_outputs(dtype: str, outputs: int, steps: Epilogue) -> None:
    x, weight = draw(7, 1100, dtype=dtype), draw(outputs, 1100, dtype=dtype, seed=2)
    extras = epilogue_arguments(steps, (7, outputs), dtype, np.random.default_rng(3))
    expected = epilogue(x.astype(np.float64) @ weight.T.astype(np.float64), steps, extras)
    for machine in MACHINES.values():
        function = build(machine, k=narrow.dense(machine, dtype, 7, 1100, outputs, steps))["k"]
        assert_close(run(function, [x, weight, *extras.values()], (7, outputs)), expected, 3 * TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "outputs", "inputs"), [("float32", 1, 50), ("float64", 5, 100), ("float32", 10, 3), ("float64", 10, 50)]
)
def test_weighted_sums_of_outer_products(dtype: str, outputs: int, inputs: int) -> None:
    x, g = draw(9, inputs, dtype=dtype), draw(9, outputs, dtype=dtype, seed=2)
    factors = np.abs(draw(9, dtype=dtype, seed=3))
    expected = (factors[:, None] * g).T.astype(np.float64) @ x.astype(np.float64)
    for machine in MACHINES.values():
        function = build(machine, k=narrow.outer_sums(machine, dtype, 9, inputs, outputs))["k"]
        assert_close(run(function, [x, g, factors], (outputs, inputs)), expected, 2 * TOLERANCE[dtype])


def test_rows_of_factor_zero_are_left_out_of_a_weighted_sum_whatever_they_hold() -> None:
    machine = MACHINES["wide"]
    x, g = draw(4, 20, dtype="float32"), draw(4, 3, dtype="float32", seed=2)
    factors = np.array([1, 0, 0.5, 0], np.float32)
    expected = g[[0, 2]].T @ (factors[[0, 2], None] * x[[0, 2]])
    x[1], g[3] = np.nan, np.inf
    function = build(machine, k=narrow.outer_sums(machine, "float32", 4, 20, 3))["k"]
    (found,) = call(function, [x, g, factors], (3, 20))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
