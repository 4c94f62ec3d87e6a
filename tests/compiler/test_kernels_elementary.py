"""Vectorized logarithm, sine, cosine and conversions against NumPy and exact integers."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from tvm.runtime import tensor
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import elementary
from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build

EDGES = [0, 1, 2, 2**29, 2**30 - 1, 2**30, 2**30 + 1, 2**31 - 1, 2**31, 3 * 2**30 - 1, 3 * 2**30, 2**32 - 2, 2**32 - 1]
Body = Callable[[Sequence[Expression], int], Sequence[Expression]]


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def apply(machine: Machine, body: Body, inputs: Sequence[np.ndarray], *types: str) -> list[np.ndarray]:
    """Run body on vectors of 8 over the inputs; one output array for each of `types`."""
    kernel, size = Kernel(machine, "float64"), inputs[0].size
    with kernel.function():
        sources = [kernel.argument(f"input{i}", (size,), str(each.dtype)) for i, each in enumerate(inputs)]
        outputs = [kernel.argument(f"output{i}", (size,), dtype) for i, dtype in enumerate(types)]
        with T.serial(size // 8) as block:
            values = [T.Bind(kernel.load(source, block * 8, lanes=8)) for source in sources]
            for output, value in zip(outputs, body(values, 8), strict=True):
                kernel.store(output, value, block * 8, lanes=8)
    made = [tensor(np.zeros(size, dtype)) for dtype in types]
    build(machine, f=kernel.finish())["f"](*map(tensor, inputs), *made)
    return [np.asarray(each.numpy()) for each in made]


def words() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of uint32: every pair of edges, and random ones, a multiple of 8."""
    high, low = (each.ravel() for each in np.meshgrid(EDGES, EDGES))
    random = np.random.default_rng(0).integers(0, 2**32, (2, 8192 - high.size))
    return np.concatenate([high, random[0]]).astype("uint32"), np.concatenate([low, random[1]]).astype("uint32")


def test_logarithm(machine: Machine) -> None:
    random = np.random.default_rng(0)
    near_one = 1.0 + np.arange(-512, 512) * 2.0**-53
    split = np.sqrt(0.5) * (1.0 + np.arange(-512, 512) * 2.0**-52)
    tiny = 2.0 ** -random.uniform(0.0, 64.0, 4096)
    x = np.concatenate([near_one, split, tiny, 2.0 ** random.uniform(-1000, 1000, 2048)])
    (found,) = apply(machine, lambda v, lanes: [elementary.log(v[0], lanes)], [x], "float64")
    np.testing.assert_allclose(found, np.log(x), rtol=2e-15, atol=0)


def test_uniforms_lie_above_zero_and_up_to_one(machine: Machine) -> None:
    high, low = words()
    (found,) = apply(machine, lambda v, lanes: [elementary.uniform(v[0], v[1], lanes)], [high, low], "float64")
    exact = [Fraction((int(top) << 32) + int(rest) + 1, 1 << 64) for top, rest in zip(high, low, strict=True)]
    np.testing.assert_array_equal(found, [float(each) for each in exact])
    assert found.min() == 2.0**-64 and found.max() == 1.0


def test_directions_lie_on_the_circle_at_the_angle_of_the_bits(machine: Machine) -> None:
    high, low = words()
    sign, cosine, sine = apply(
        machine, lambda v, lanes: elementary.direction(v[0], v[1], lanes), [high, low], *["float64"] * 3
    )
    wide = np.longdouble(2.0) ** -64 * (high.astype(np.longdouble) * 2**32 + low)
    angle = 2 * np.longdouble("3.14159265358979323846264338327950288") * wide
    np.testing.assert_allclose(sign * cosine, np.cos(angle).astype("float64"), rtol=0, atol=2e-15)
    np.testing.assert_allclose(sign * sine, np.sin(angle).astype("float64"), rtol=0, atol=2e-15)
    assert set(sign) == {-1.0, 1.0}


def test_integers_to_and_from_floats(machine: Machine) -> None:
    random = np.random.default_rng(0)
    edges = np.array([0, 1, -1, 2**31, -(2**31), 2**32, -(2**32), 2**53 + 1, -(2**53) - 1, 2**62, -(2**62), 2**63 - 1])
    integers = np.concatenate([edges, random.integers(-(2**62), 2**62, 4096 - edges.size)])
    (floats,) = apply(machine, lambda v, lanes: [elementary.float_of_integer(v[0], lanes)], [integers], "float64")
    np.testing.assert_array_equal(floats, integers.astype("float64"))

    ties = np.arange(-64, 64) / 2
    values = np.concatenate([ties, random.uniform(-(2.0**51), 2.0**51, 1024), random.uniform(-10, 10, 1024)])
    (nearest,) = apply(machine, lambda v, lanes: [elementary.nearest_integer(v[0], lanes)], [values], "int64")
    np.testing.assert_array_equal(nearest, np.round(values).astype("int64"))
