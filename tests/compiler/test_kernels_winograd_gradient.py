"""Weight gradients by Winograd against PyTorch's own gradient of each example in float64, and what they must leave
out."""

import numpy as np
import pytest

from privlib.compiler import costs
from privlib.compiler.kernels import winograd_gradient
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.kernels.weight_gradient import MODES, gradient_shape
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build
from tests.compiler.test_kernels_gradient import call, error, operands

# float32: the transforms' constants, up to 8 a side, cost two or three bits
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}
SAME = (1, 1, 1, 1)
SHAPES = {
    "one block of weights": Conv2d(4, 8, 8, 16, 16, (3, 3), padding=SAME),
    "panels cut": Conv2d(3, 8, 12, 19, 20, (3, 3), padding=SAME),
    "no padding": Conv2d(3, 6, 10, 5, 9, (3, 3)),
    "uneven padding": Conv2d(2, 9, 8, 7, 8, (3, 3), padding=(1, 2, 0, 0)),
    "one tile, several images a product": Conv2d(11, 4, 4, 8, 12, (3, 3), padding=SAME),
    "first layer, strips of one image": Conv2d(2, 48, 44, 3, 20, (3, 3), padding=SAME),
    "batch of one": Conv2d(1, 8, 8, 8, 8, (3, 3), padding=SAME),
}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


@DTYPES
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_of_each_example_their_norms_and_the_weighted_sum(machine: Machine, name: str, dtype: str) -> None:
    shape = SHAPES[name]
    assert winograd_gradient.applies(shape)
    x, g, expected = operands(shape, dtype)
    factors = np.random.default_rng(8).random(shape.batch).astype(dtype)
    one, tolerance = gradient_shape(shape), TOLERANCE[dtype]
    library = build(machine, **{mode: winograd_gradient.weight_gradient(machine, dtype, shape, mode) for mode in MODES})
    squares = (expected**2).sum((1, 2, 3))

    gradients, norms = call(library["kept"], [x, g], (shape.batch, *one), (shape.batch,))
    assert error(gradients, expected) < tolerance
    assert error(norms, squares) < tolerance
    # a kept gradient's norm is its own, whatever Winograd rounded: what is clipped is what is summed
    assert error(norms, (gradients.astype(np.float64) ** 2).sum((1, 2, 3))) < TOLERANCE[dtype] / 10
    (alone,) = call(library["norm"], [x, g], (shape.batch,))
    np.testing.assert_array_equal(alone, norms)
    (sums,) = call(library["summed"], [x, g, factors], (machine.cores, *one))
    assert error(sums.sum(0), (expected * factors[:, None, None, None]).sum(0)) < tolerance


@pytest.mark.parametrize("name", ["one tile, several images a product", "first layer, strips of one image"])
def test_an_example_of_factor_zero_is_left_out_even_if_it_is_not_finite(machine: Machine, name: str) -> None:
    shape = SHAPES[name]
    x, g, expected = operands(shape, "float32")
    factors = np.random.default_rng(8).random(shape.batch).astype("float32") + 0.5
    factors[::2], x[::2], g[0] = 0.0, np.nan, np.inf
    library = build(machine, f=winograd_gradient.weight_gradient(machine, "float32", shape, "summed"))
    (sums,) = call(library["f"], [x, g, factors], (machine.cores, *gradient_shape(shape)))
    assert error(sums.sum(0), (expected * factors[:, None, None, None]).sum(0)) < TOLERANCE["float32"]


def test_a_batch_of_factors_zero_sums_to_zero(machine: Machine) -> None:
    shape = SHAPES["one block of weights"]
    x, g, _ = operands(shape, "float32")
    library = build(machine, f=winograd_gradient.weight_gradient(machine, "float32", shape, "summed"))
    factors = np.zeros(shape.batch, "float32")
    (sums,) = call(library["f"], [x * np.nan, g, factors], (machine.cores, *gradient_shape(shape)))
    assert not sums.any()


def test_one_example_that_is_not_finite_leaves_the_norms_of_the_others_alone(machine: Machine) -> None:
    shape = SHAPES["panels cut"]
    x, g, expected = operands(shape, "float32")
    x[1, 3, 4, 2] = np.inf
    library = build(machine, f=winograd_gradient.weight_gradient(machine, "float32", shape, "norm"))
    (norms,) = call(library["f"], [x, g], (shape.batch,))
    assert not np.isfinite(norms[1])
    assert error(norms[[0, 2]], (expected[[0, 2]] ** 2).sum((1, 2, 3))) < TOLERANCE["float32"]


@pytest.mark.parametrize(
    "shape",
    [
        Conv2d(1, 8, 8, 4, 4, (1, 1)),
        Conv2d(1, 8, 8, 4, 4, (3, 3), (2, 2), SAME),
        Conv2d(1, 12, 12, 4, 4, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
        Conv2d(1, 8, 8, 4, 4, (3, 3), padding=SAME, groups=2),
        Conv2d(1, 8, 6, 4, 4, (3, 3), padding=SAME),
    ],
    ids=["1x1", "strided", "dilated", "grouped", "width no multiple of 4"],
)
def test_other_convolutions_are_not_for_these_kernels(shape: Conv2d) -> None:
    assert not winograd_gradient.applies(shape)


@pytest.mark.parametrize("mode", MODES)
def test_the_estimate_prefers_winograd_where_the_products_weigh_most(mode: str) -> None:
    machine = MACHINES["narrow"]
    wide, narrow = (Conv2d(64, 32, 32, c, c, (3, 3), padding=SAME) for c in (64, 4))
    share = [
        winograd_gradient.cycles(machine, "float32", shape, mode) / costs.direct_cycles(machine, "float32", shape)
        for shape in (wide, narrow)
    ]
    assert share[0] < 0.5 < 1 < share[1]
