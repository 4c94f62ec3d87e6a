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


def test_logarithm(machine: Machine) -> None:
    random = np.random.default_rng(0)
    near_one = 1.0 + np.arange(-512, 512) * 2.0**-53
    split = np.sqrt(0.5) * (1.0 + np.arange(-512, 512) * 2.0**-52)
    tiny = 2.0 ** -random.uniform(0.0, 75.0, 4096)
    ends = np.full(8, np.finfo("float64").tiny), np.full(8, np.finfo("float64").max)
    x = np.concatenate([near_one, split, tiny, 2.0 ** random.uniform(-1000, 1000, 2048), *ends])
    (found,) = apply(machine, lambda v, lanes: [elementary.log(v[0], lanes)], [x], "float64")
    np.testing.assert_allclose(found, np.log(x.astype(np.longdouble)).astype("float64"), rtol=1e-15, atol=0)
    scaled = np.concatenate([near_one, split, tiny])
    (found,) = apply(machine, lambda v, lanes: [elementary.log(v[0], lanes, 64)], [scaled * 2.0**64], "float64")
    np.testing.assert_allclose(found, np.log(scaled.astype(np.longdouble)).astype("float64"), rtol=1e-15, atol=0)


def test_sine_and_cosine(machine: Machine) -> None:
    random = np.random.default_rng(0)
    small = 2.0 ** -random.uniform(0, 60, 1024) * np.pi / 4
    x = np.concatenate([np.linspace(-np.pi / 4, np.pi / 4, 4096), small, -small, np.zeros(8)])
    both = apply(
        machine, lambda v, lanes: [elementary.sine(v[0], lanes), elementary.cosine(v[0], lanes)], [x], *["float64"] * 2
    )
    for found, reference in zip(both, (np.sin, np.cos), strict=True):
        np.testing.assert_allclose(found, reference(x.astype(np.longdouble)).astype("float64"), rtol=5e-16, atol=0)


def test_unsigned_integers_with_a_fraction(machine: Machine) -> None:
    random = np.random.default_rng(0)
    edges = [0, 1, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1, 2**64 - 1025]
    integers = np.array(edges * 4 + [int(k) >> s for s in range(64) for k in random.integers(0, 2**63, 8)], "uint64")
    fraction = (random.integers(0, 1024, integers.size) + 0.5) / 1024
    (found,) = apply(
        machine, lambda v, lanes: [elementary.float_of_unsigned(v[0], v[1], lanes)], [integers, fraction], "float64"
    )
    exact = [float(Fraction(int(k)) + Fraction(f)) for k, f in zip(integers, fraction, strict=True)]
    np.testing.assert_array_equal(found, exact)
    assert found.min() > 0 and found.max() == 2.0**64


def test_integers_to_and_from_floats(machine: Machine) -> None:
    random = np.random.default_rng(0)
    edges = np.array([0, 1, -1, 2**31, -(2**31), 2**32, -(2**32), 2**53 + 1, -(2**53) - 1, 2**62, -(2**62), 2**63 - 1])
    integers = np.concatenate([edges, random.integers(-(2**62), 2**62, 4096 - edges.size)])
    (floats,) = apply(machine, lambda v, lanes: [elementary.float_of_integer(v[0], lanes)], [integers], "float64")
    np.testing.assert_array_equal(floats, integers.astype("float64"))

    ties = np.arange(-64, 64) / 2
    values = np.concatenate([ties, random.uniform(-(2.0**51), 2.0**51, 1024), random.uniform(-10, 10, 1024)])
    nearest, same = apply(
        machine,
        lambda v, lanes: [elementary.nearest_integer(v[0], lanes), elementary.nearest_large_integer(v[0], lanes)],
        [values],
        *["int64"] * 2,
    )
    np.testing.assert_array_equal(nearest, np.round(values).astype("int64"))
    np.testing.assert_array_equal(same, nearest)

    large = np.concatenate([np.arange(-64, 64) * 2.0**31 + 0.5, 2.0 ** random.uniform(0, 61.9, 1024)])
    large = np.concatenate([large, -large])
    (nearest,) = apply(machine, lambda v, lanes: [elementary.nearest_large_integer(v[0], lanes)], [large], "int64")
    np.testing.assert_array_equal(nearest, np.round(large).astype("int64"))
