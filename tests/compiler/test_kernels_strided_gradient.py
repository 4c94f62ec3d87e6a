"""The data gradient of a strided convolution against PyTorch's in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from privlib.compiler.kernels import strided_gradient
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, TOLERANCE, assert_close, build
from tests.compiler.test_kernels_gradient import call

SAME = (1, 1, 1, 1)
SHAPES = {
    "3x3 stride 2": Conv2d(4, 8, 12, 16, 32, (3, 3), (2, 2), SAME),
    "projection": Conv2d(2, 8, 8, 16, 24, (1, 1), (2, 2)),
    "odd image, channels cut": Conv2d(3, 9, 7, 21, 10, (3, 3), (2, 2), SAME),
    "patches": Conv2d(2, 12, 8, 5, 9, (4, 4), (4, 4)),
    "kernel smaller than the stride": Conv2d(2, 11, 13, 6, 7, (2, 2), (3, 3)),
    "uneven everything": Conv2d(2, 11, 10, 5, 6, (3, 2), (2, 3), (1, 0, 2, 1)),
    "dilated by the stride": Conv2d(2, 12, 12, 4, 8, (3, 3), (2, 2), (2, 2, 2, 2), (2, 2)),
    "dilated past the stride": Conv2d(2, 14, 13, 4, 8, (3, 3), (2, 2), (3, 3, 3, 3), (3, 3)),
    "padded past the kernel": Conv2d(1, 6, 6, 3, 4, (2, 2), (2, 2), (3, 3, 3, 3)),
    "input never read": Conv2d(1, 8, 8, 3, 4, (3, 3), (4, 4)),
    "large kernel": Conv2d(1, 16, 16, 3, 8, (7, 7), (2, 2), (3, 3, 3, 3)),
    "many rows": Conv2d(1, 96, 64, 4, 64, (3, 3), (2, 2), SAME),
    "stride in one axis": Conv2d(2, 6, 8, 4, 4, (3, 3), (1, 2), SAME),
    "stride beyond the image": Conv2d(2, 2, 3, 4, 4, (1, 1), (5, 5)),
}


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def reference(shape: Conv2d, g: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Autograd's gradient with respect to the image before it is padded."""
    top, left, bottom, right = shape.padding
    x = torch.zeros(shape.batch, shape.c_in, shape.height, shape.width, dtype=torch.float64, requires_grad=True)
    y = functional.conv2d(
        functional.pad(x, (left, right, top, bottom)), torch.from_numpy(weight).double(), None, shape.stride, 0,
        shape.dilation,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(y, x, torch.from_numpy(g).double().permute(0, 3, 1, 2))
    return gradient.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_data_gradient(machine: Machine, name: str, dtype: str) -> None:
    shape, random = SHAPES[name], np.random.default_rng(5)
    assert strided_gradient.applies(shape)
    g = random.standard_normal((shape.batch, shape.out_height, shape.out_width, shape.c_out)).astype(dtype)
    weight = random.standard_normal((shape.c_out, shape.c_in, *shape.kernel)).astype(dtype)
    library = build(
        machine,
        pack=strided_gradient.pack_weights(machine, dtype, shape),
        back=strided_gradient.data_gradient(machine, dtype, shape),
    )
    (packed,) = call(library["pack"], [weight], strided_gradient.packed_shape(machine, dtype, shape))
    (found,) = call(library["back"], [g, packed], (shape.batch, shape.height, shape.width, shape.c_in))
    assert_close(found, reference(shape, g, weight), TOLERANCE[dtype])


def test_an_example_that_is_not_finite_stays_alone(machine: Machine) -> None:
    shape, random = SHAPES["3x3 stride 2"], np.random.default_rng(5)
    g = random.standard_normal((shape.batch, shape.out_height, shape.out_width, shape.c_out)).astype("float32")
    weight = random.standard_normal((shape.c_out, shape.c_in, *shape.kernel)).astype("float32")
    expected = reference(shape, g, weight)
    g[1] = np.nan
    library = build(
        machine,
        pack=strided_gradient.pack_weights(machine, "float32", shape),
        back=strided_gradient.data_gradient(machine, "float32", shape),
    )
    (packed,) = call(library["pack"], [weight], strided_gradient.packed_shape(machine, "float32", shape))
    (found,) = call(library["back"], [g, packed], expected.shape)
    others = [0, 2, 3]
    assert np.isnan(found[1]).all()
    assert_close(found[others], expected[others], TOLERANCE["float32"])


@pytest.mark.parametrize(
    "shape",
    [Conv2d(1, 8, 8, 4, 4, (3, 3), (2, 2), SAME, groups=2), Conv2d(1, 28, 28, 3, 8, (14, 14), (14, 14))],
    ids=["grouped", "too many phases"],
)
def test_convolutions_that_are_not_for_this_kernel(shape: Conv2d) -> None:
    assert not strided_gradient.applies(shape)
