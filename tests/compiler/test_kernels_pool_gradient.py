"""Pooling gradients: windows that partition the input are written once, and give what any other windows give."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from privlib.compiler.kernels import pool_gradient
from privlib.compiler.kernels.pool import Pool2d
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build
from tests.compiler.test_kernels_gradient import call

WINDOWS = {
    "2x2": Conv2d(3, 8, 6, 12, 12, (2, 2), (2, 2)),
    "3x1": Conv2d(2, 9, 4, 17, 17, (3, 1), (3, 1)),
    "whole image": Conv2d(2, 4, 4, 8, 8, (4, 4), (4, 4)),
    "a row and a column left over": Conv2d(2, 7, 5, 8, 8, (2, 2), (2, 2)),
    "gaps": Conv2d(2, 7, 7, 8, 8, (1, 1), (2, 2)),
}
PARTITIONS = {"2x2", "3x1", "whole image"}


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def reference(kind: str, window: Conv2d, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    inputs = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    pooled = getattr(functional, f"{kind}_pool2d")(inputs, window.kernel, window.stride)
    (gradient,) = torch.autograd.grad(pooled, inputs, torch.from_numpy(g).permute(0, 3, 1, 2))
    return gradient.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_partition_the_input_are_known(name: str) -> None:
    assert pool_gradient.partitions(WINDOWS[name]) == (name in PARTITIONS)


@pytest.mark.parametrize("window", [Conv2d(1, 6, 6, 4, 4, (2, 2), (2, 2), (1, 1, 1, 1)), Conv2d(1, 4, 4, 4, 4, (2, 2))])
def test_padded_and_overlapping_windows_do_not_partition(window: Conv2d) -> None:
    assert not pool_gradient.partitions(window)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_every_element_is_torchs_with_ties_and_values_that_are_not_finite(
    machine: Machine, name: str, kind: str
) -> None:
    w, random = WINDOWS[name], np.random.default_rng(11)
    x = np.round(random.standard_normal((w.batch, w.height, w.width, w.c_in)) * 2).astype("float32") / 2
    g = random.standard_normal((w.batch, w.out_height, w.out_width, w.c_in)).astype("float32")
    special = random.random(x.shape)
    x[special < 0.1], x[special > 0.95], x[0, :2, :2, 0] = np.nan, -np.inf, -np.inf
    g[0, 0, 0, 1], g[-1, 0, 0, 2] = np.nan, np.inf
    library = build(machine, f=pool_gradient.pool2d_gradient(machine, "float32", Pool2d(kind, w)))
    (found,) = call(library["f"], [x, g], x.shape)
    expected = reference(kind, w, x, g)
    if kind == "max":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_no_element_is_negative_zero(machine: Machine, kind: str) -> None:
    w = WINDOWS["2x2"]
    x, g = np.ones((w.batch, w.height, w.width, w.c_in), "float32"), np.full((3, 4, 3, 12), -0.0, "float32")
    library = build(machine, f=pool_gradient.pool2d_gradient(machine, "float32", Pool2d(kind, w)))
    (found,) = call(library["f"], [x, g], x.shape)
    assert not found.view(np.uint32).any()
