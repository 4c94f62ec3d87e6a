"""Every convolution kernel alone against PyTorch in float64, over shapes chosen to leave remainders everywhere."""

from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from privlib.compiler import costs
from privlib.compiler.kernels import conv_direct, depthwise, matmul, separable, winograd
from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.matmul import Matmul
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import (
    MACHINES,
    NARROW,
    TOLERANCE,
    assert_close,
    build,
    epilogue,
    epilogue_arguments,
    run,
)

PLAIN = Epilogue()
ALL = Epilogue(bias=True, residual=True, activation="relu")
SIX = Epilogue(bias=True, activation="relu6")
ADDED = Epilogue(residual=True)

DIRECT = {
    "one pixel": (Conv2d(1, 1, 1, 1, 1, (1, 1)), PLAIN, False),
    "one pixel, padded": (Conv2d(1, 1, 1, 3, 2, (3, 3), padding=(1, 1, 1, 1)), SIX, False),
    "one channel": (Conv2d(2, 5, 4, 1, 1, (3, 3)), ALL, False),
    "remainders": (Conv2d(3, 7, 9, 5, 19, (3, 3), padding=(1, 1, 1, 1)), ALL, False),
    "more channels than a block": (Conv2d(1, 6, 5, 9, 67, (3, 3), padding=(1, 1, 1, 1)), PLAIN, False),
    "whole blocks, no padding": (Conv2d(2, 10, 10, 16, 32, (3, 3)), ADDED, False),
    "stride": (Conv2d(2, 9, 11, 6, 17, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)), SIX, False),
    "uneven stride": (Conv2d(1, 13, 12, 4, 8, (3, 2), stride=(3, 2)), PLAIN, False),
    "strided 1×1": (Conv2d(2, 8, 8, 16, 24, (1, 1), stride=(2, 2)), ALL, False),
    "asymmetric padding": (Conv2d(1, 6, 7, 3, 9, (4, 2), padding=(1, 0, 2, 1)), PLAIN, False),
    "padding beyond the image": (Conv2d(1, 2, 3, 2, 5, (5, 5), padding=(4, 3, 2, 4)), SIX, False),
    "dilation": (Conv2d(1, 11, 10, 4, 10, (3, 3), padding=(2, 3, 2, 3), dilation=(2, 3)), ALL, False),
    "groups": (Conv2d(2, 6, 6, 12, 18, (3, 3), padding=(1, 1, 1, 1), groups=3), ALL, False),
    "many groups, wide": (Conv2d(1, 5, 5, 8, 80, (3, 3), padding=(1, 1, 1, 1), groups=2), PLAIN, False),
    "channel multiplier": (Conv2d(1, 6, 5, 7, 21, (3, 3), padding=(1, 1, 1, 1), groups=7), SIX, False),
    "nchw": (Conv2d(2, 9, 7, 3, 33, (3, 3), padding=(1, 1, 1, 1)), ALL, True),
    "nchw, no padding": (Conv2d(2, 8, 9, 4, 8, (3, 3), stride=(2, 2)), PLAIN, True),
    "nchw 1×1": (Conv2d(1, 3, 5, 2, 6, (1, 1)), SIX, True),
    "7×7 stem": (Conv2d(1, 17, 17, 3, 16, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)), PLAIN, True),
    "large rows": (Conv2d(1, 5, 230, 40, 8, (3, 3), padding=(1, 1, 1, 1)), PLAIN, False),
}
DEPTHWISE = {
    "remainders": (Conv2d(2, 7, 9, 19, 19, (3, 3), padding=(1, 1, 1, 1), groups=19), ALL, False),
    "stride": (Conv2d(1, 9, 10, 32, 32, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), groups=32), SIX, False),
    "asymmetric stride and padding": (
        Conv2d(3, 8, 5, 6, 6, (2, 4), stride=(1, 2), padding=(0, 2, 1, 1), groups=6),
        PLAIN,
        False,
    ),
    "dilation": (Conv2d(1, 9, 9, 10, 10, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2), groups=10), ADDED, False),
    "no padding": (Conv2d(2, 6, 7, 16, 16, (3, 3), groups=16), ALL, False),
    "one pixel": (Conv2d(1, 1, 1, 2, 2, (1, 1), groups=2), PLAIN, False),
    "nchw": (Conv2d(2, 6, 6, 3, 3, (3, 3), padding=(1, 1, 1, 1), groups=3), SIX, True),
}
WINOGRAD = {
    "remainders": (Conv2d(3, 8, 12, 5, 19, (3, 3), padding=(1, 1, 1, 1)), ALL, False),
    "one tile": (Conv2d(1, 4, 4, 1, 1, (3, 3), padding=(1, 1, 1, 1)), PLAIN, False),
    "no padding": (Conv2d(2, 10, 6, 16, 32, (3, 3)), SIX, False),
    "asymmetric padding": (Conv2d(1, 7, 6, 9, 40, (3, 3), padding=(2, 0, 1, 0)), ADDED, False),
    "nchw": (Conv2d(4, 8, 8, 3, 64, (3, 3), padding=(1, 1, 1, 1)), ALL, True),
    "deep": (Conv2d(2, 8, 8, 200, 24, (3, 3), padding=(1, 1, 1, 1)), PLAIN, False),
    "one task has many images": (Conv2d(12, 4, 4, 8, 16, (3, 3), padding=(1, 1, 1, 1)), SIX, False),
}


def reference(x: np.ndarray, weight: np.ndarray, shape: Conv2d) -> np.ndarray:
    """x (B, H, W, C) → PyTorch's convolution in float64, (B, H', W', O)."""
    top, left, bottom, right = shape.padding
    image = F.pad(torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2), (left, right, top, bottom))
    filters = torch.from_numpy(weight.astype(np.float64))
    result = F.conv2d(image, filters, stride=shape.stride, dilation=shape.dilation, groups=shape.groups)
    return result.permute(0, 2, 3, 1).numpy()


def check(
    kernels: ModuleType, machine: Machine, dtype: str, shape: Conv2d, steps: Epilogue, nchw: bool, tolerance: float
) -> None:
    random = np.random.default_rng(7)
    x = random.standard_normal((shape.batch, shape.height, shape.width, shape.c_in)).astype(dtype)
    weight = random.standard_normal((shape.c_out, shape.c_in // shape.groups, *shape.kernel)).astype(dtype)
    expected = reference(x, weight, shape)
    assert expected.shape == (shape.batch, shape.out_height, shape.out_width, shape.c_out)
    extras = epilogue_arguments(steps, expected.shape, dtype, random)
    library = build(
        machine,
        pack=kernels.pack_weights(machine, dtype, shape),
        conv=kernels.conv2d(machine, dtype, shape, steps, nchw),
    )
    packed = run(library["pack"], [weight], kernels.packed_shape(machine, dtype, shape))
    source = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if nchw else x
    found = run(library["conv"], [source, packed, *extras.values()], expected.shape)
    assert_close(found, epilogue(expected, steps, extras), tolerance)


# Each shape runs in both precisions, once on either register tile.
@pytest.mark.parametrize(("dtype", "tile"), [("float32", 0), ("float64", 1)])
@pytest.mark.parametrize("name", DIRECT)
def test_direct(name: str, dtype: str, tile: int) -> None:
    machine = list(MACHINES.values())[(list(DIRECT).index(name) + tile) % 2]
    check(conv_direct, machine, dtype, *DIRECT[name], TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "tile"), [("float32", 0), ("float64", 1)])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str, dtype: str, tile: int) -> None:
    machine = list(MACHINES.values())[(list(DEPTHWISE).index(name) + tile) % 2]
    check(depthwise, machine, dtype, *DEPTHWISE[name], TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "tile"), [("float32", 0), ("float64", 1)])
@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd(name: str, dtype: str, tile: int) -> None:
    """The transforms cost accuracy: F(4×4, 3×3) loses about a factor of ten, here 1e-5 is the bound (1e-4 promised)."""
    machine = list(MACHINES.values())[(list(WINOGRAD).index(name) + tile) % 2]
    assert winograd.applies(WINOGRAD[name][0])
    check(winograd, machine, dtype, *WINOGRAD[name], {"float32": 1e-5, "float64": 2e-14}[dtype])


def test_winograd_stays_within_its_error_bound_on_images_far_from_zero() -> None:
    """A large mean under small differences is the transforms' worst input: 1e-4 (relative L2) must still hold."""
    shape, random = Conv2d(2, 16, 16, 64, 64, (3, 3), padding=(1, 1, 1, 1)), np.random.default_rng(3)
    x = (100 + random.standard_normal((2, 16, 16, 64))).astype(np.float32)
    weight = random.standard_normal((64, 64, 3, 3)).astype(np.float32)
    library = build(
        NARROW,
        pack=winograd.pack_weights(NARROW, "float32", shape),
        conv=winograd.conv2d(NARROW, "float32", shape, PLAIN),
    )
    packed = run(library["pack"], [weight], winograd.packed_shape(NARROW, "float32", shape))
    found = run(library["conv"], [x, packed], (2, 16, 16, 64))
    assert_close(found, reference(x, weight, shape), 1e-4 / 4)


@pytest.mark.parametrize(
    "shape",
    [
        Conv2d(1, 9, 8, 8, 8, (3, 3), padding=(1, 1, 1, 1)),  # 9 rows are no multiple of 4
        Conv2d(1, 8, 8, 8, 8, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
        Conv2d(1, 8, 8, 8, 8, (5, 5), padding=(2, 2, 2, 2)),
        Conv2d(1, 8, 8, 8, 8, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
        Conv2d(1, 8, 8, 8, 8, (3, 3), padding=(1, 1, 1, 1), groups=2),
    ],
)
def test_winograd_is_not_chosen_where_it_cannot_compute(shape: Conv2d) -> None:
    assert not winograd.applies(shape)
    assert costs.choose_conv(NARROW, "float32", shape) == "direct"


def test_the_cost_model_picks_each_family() -> None:
    wide = Conv2d(16, 32, 32, 64, 64, (3, 3), padding=(1, 1, 1, 1))
    stem = Conv2d(16, 32, 32, 1, 8, (3, 3), padding=(1, 1, 1, 1))
    mobile = Conv2d(16, 32, 32, 64, 64, (3, 3), padding=(1, 1, 1, 1), groups=64)
    assert [costs.choose_conv(NARROW, "float32", s) for s in (wide, stem, mobile)] == [
        "winograd",
        "direct",
        "depthwise",
    ]


MATMUL = {
    "one by one": (Matmul(1, 1, 1), PLAIN),
    "one row": (Matmul(1, 37, 19), ALL),
    "prime rows": (Matmul(131, 24, 40), SIX),
    "few rows, many channels": (Matmul(16, 96, 160), ALL),
    "long reduction, cut": (Matmul(24, 1024, 33), ALL),
    "long prime reduction": (Matmul(9, 521, 10), ADDED),
    "rows in tasks": (Matmul(4096, 16, 8), PLAIN),
    "rows in tasks, cut": (Matmul(1200, 600, 24), SIX),
    "last block narrow": (Matmul(50, 30, 129), ALL),
}


@pytest.mark.parametrize(("dtype", "tile"), [("float32", 0), ("float64", 1)])
@pytest.mark.parametrize("name", MATMUL)
def test_matmul(name: str, dtype: str, tile: int) -> None:
    machine = list(MACHINES.values())[(list(MATMUL).index(name) + tile) % 2]
    (shape, steps), random = MATMUL[name], np.random.default_rng(5)
    x = random.standard_normal((shape.rows, shape.c_in)).astype(dtype)
    weight = random.standard_normal((shape.c_out, shape.c_in)).astype(dtype)
    expected = x.astype(np.float64) @ weight.astype(np.float64).T
    extras = epilogue_arguments(steps, expected.shape, dtype, random)
    library = build(
        machine, pack=matmul.pack_weights(machine, dtype, shape), product=matmul.matmul(machine, dtype, shape, steps)
    )
    packed = run(library["pack"], [weight], matmul.packed_shape(machine, dtype, shape))
    found = run(library["product"], [x, packed, *extras.values()], expected.shape)
    assert_close(found, epilogue(expected, steps, extras), TOLERANCE[dtype])


SEPARABLE = {
    "remainders": (Conv2d(2, 7, 9, 19, 19, (3, 3), padding=(1, 1, 1, 1), groups=19), SIX, 33, ALL),
    "stride": (Conv2d(1, 8, 8, 32, 32, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), groups=32), PLAIN, 16, PLAIN),
    "no padding": (Conv2d(3, 5, 6, 8, 8, (3, 2), groups=8), Epilogue(activation="relu"), 5, SIX),
    "cut reduction": (Conv2d(1, 4, 4, 512, 512, (3, 3), padding=(1, 1, 1, 1), groups=512), SIX, 48, ADDED),
}


@pytest.mark.parametrize(("dtype", "tile"), [("float32", 0), ("float64", 1)])
@pytest.mark.parametrize("name", SEPARABLE)
def test_separable(name: str, dtype: str, tile: int) -> None:
    machine = list(MACHINES.values())[(list(SEPARABLE).index(name) + tile) % 2]
    (shape, inner, c_out, outer), random = SEPARABLE[name], np.random.default_rng(11)
    product = Matmul(shape.batch * shape.out_height * shape.out_width, shape.c_out, c_out)
    x = random.standard_normal((shape.batch, shape.height, shape.width, shape.c_in)).astype(dtype)
    filters = random.standard_normal((shape.c_out, 1, *shape.kernel)).astype(dtype)
    weight = random.standard_normal((c_out, shape.c_out)).astype(dtype)
    between = reference(x, filters, shape)
    inner_extras = epilogue_arguments(inner, between.shape, dtype, random)
    expected = epilogue(between, inner, inner_extras) @ weight.astype(np.float64).T
    extras = epilogue_arguments(outer, expected.shape, dtype, random)
    library = build(
        machine,
        filters=depthwise.pack_weights(machine, dtype, shape),
        weight=matmul.pack_weights(machine, dtype, product),
        conv=separable.conv2d(machine, dtype, shape, inner, c_out, outer),
    )
    packed_filters = run(library["filters"], [filters], depthwise.packed_shape(machine, dtype, shape))
    packed = run(library["weight"], [weight], matmul.packed_shape(machine, dtype, product))
    arguments = [x, packed_filters, *inner_extras.values(), packed, *extras.values()]
    found = run(library["conv"], arguments, expected.shape)
    assert_close(found, epilogue(expected, outer, extras), TOLERANCE[dtype])
