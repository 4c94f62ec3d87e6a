"""The small kernels of a training step, each against NumPy or PyTorch; zero factors against poisoned values."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from privlib.compiler.kernels import batch, weight_gradient
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build
from tests.compiler.test_kernels_backward import draw
from tests.compiler.test_kernels_gradient import call

FLOAT64 = "float64"


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_flipped_and_dilated_operands_give_the_data_gradient(machine: Machine, groups: int) -> None:
    shape = Conv2d(2, 9, 8, 6, 12, (3, 3), (2, 1), (1, 1, 1, 1), groups=groups)
    weight = draw(12, 6 // groups, 3, 3, dtype=FLOAT64)
    g = draw(2, shape.out_height, shape.out_width, 12, dtype=FLOAT64)
    library = build(
        machine,
        flip=batch.flip_weights(machine, FLOAT64, shape),
        dilate=batch.dilate(machine, FLOAT64, g.shape, shape.stride),
    )
    (flipped,) = call(library["flip"], [weight], (6, 12 // groups, 3, 3))
    (spread,) = call(library["dilate"], [g], (2, 9, 8, 12))
    found = functional.conv2d(
        torch.from_numpy(spread).permute(0, 3, 1, 2), torch.from_numpy(flipped), padding=1, groups=groups
    )
    x = torch.zeros(2, 6, 9, 8, dtype=torch.float64, requires_grad=True)
    output = functional.conv2d(x, torch.from_numpy(weight), None, shape.stride, 1, 1, groups)
    output.backward(torch.from_numpy(g).permute(0, 3, 1, 2))
    assert x.grad is not None
    torch.testing.assert_close(found, x.grad)


def test_sums_over_positions_rows_and_cores(machine: Machine) -> None:
    x, shape = draw(3, 4, 5, 10, dtype=FLOAT64), Conv2d(1, 4, 4, 5, 7, (3, 2))
    partial = draw(machine.cores, 6, 5, 7, dtype=FLOAT64)
    library = build(
        machine,
        positions=batch.position_sums(machine, FLOAT64, x.shape),
        squares=batch.row_squares(machine, FLOAT64, x.shape),
        join=batch.join_cores(machine, FLOAT64, shape),
    )
    np.testing.assert_allclose(call(library["positions"], [x], (3, 10))[0], x.sum((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(call(library["squares"], [x], (3,))[0], (x**2).sum((1, 2, 3)), rtol=1e-12)
    expected = partial.sum(0).reshape(3, 2, 5, 7).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(call(library["join"], [partial], (7, 5, 3, 2))[0], expected, rtol=1e-12)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_factor_zero_removes_an_example_whatever_it_holds(machine: Machine, poison: float) -> None:
    shape = Conv2d(4, 4, 4, 3, 9, (3, 3), padding=(1, 1, 1, 1))
    x, g = draw(4, 4, 4, 3, dtype="float32"), draw(4, 4, 4, 9, dtype="float32", seed=5)
    rows, factors = draw(4, 9, dtype="float32", seed=6), np.array([0.5, 0.0, 1.0, 0.25], "float32")
    library = build(
        machine,
        conv=weight_gradient.weight_gradient(machine, "float32", shape, "summed"),
        sum=batch.factor_sum(machine, "float32", rows.shape),
        scale=batch.scale_rows(machine, "float32", rows.shape, False),
        select=batch.scale_rows(machine, "float32", rows.shape, True),
    )
    one = (machine.cores, *weight_gradient.gradient_shape(shape))
    clean = [a.copy() for a in (x, g, rows)]
    for a in clean:
        a[1] = 0.0
    for a in (x, g, rows):
        a[1] = poison
    (poisoned,), (expected,) = (call(library["conv"], [*pair, factors], one) for pair in ((x, g), clean[:2]))
    np.testing.assert_array_equal(poisoned, expected)
    np.testing.assert_allclose(call(library["sum"], [rows, factors], (9,))[0], factors @ clean[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(call(library["scale"], [rows, factors], (4, 9))[0], clean[2] * factors[:, None])
    np.testing.assert_array_equal(call(library["select"], [rows, factors], (4, 9))[0], clean[2])


@pytest.mark.parametrize("clipping", ["flat", "normalize", "none"])
def test_clip_factors(machine: Machine, clipping: str) -> None:
    one = np.array([9.0, 0.01, 0.0, np.nan, 4.0, np.inf, 1.0], "float32")
    two = np.array([16.0, 0.03, 0.0, 1.0, 5.0, 1.0, 0.0], "float32")
    mask = np.array([1, 1, 1, 1, 0, 1, 1], "float32")
    library = build(machine, f=batch.clip_factors(machine, "float32", 7, 2, clipping, 1.0))
    totals, factors = call(library["f"], [one, two, mask], (7,), (7,))
    np.testing.assert_array_equal(totals, one + two)
    expected = {
        "flat": [0.2, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "normalize": [0.2, 5.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "none": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    }
    np.testing.assert_allclose(factors, expected[clipping], rtol=1e-6)
