"""The fused update: torch.optim.SGD without noise, the floating-point guard with it, and sums folded to the grid."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tvm.runtime import tensor

from privlib.compiler.kernels import chacha, gaussian, noise, update
from privlib.compiler.kernels.noise import NoiseError, NoiseGrid
from privlib.compiler.kernels.update import Flat, Update
from tests.compiler.kernel_harness import MACHINES, build

KEY, NONCE = np.arange(8, dtype="uint32"), chacha.stream_nonce(1)
FLAT = Flat((1000, 16, 7, 33 * gaussian.SEGMENT))  # padding, several tasks, a shorter last segment
SIZE = FLAT.size
NARROW = MACHINES["narrow"]
REAL = np.setdiff1d(np.arange(SIZE), FLAT.padding)


def drawn(sigma_steps: float) -> np.ndarray:
    made = tensor(np.zeros(SIZE, "int64"))
    build(NARROW, f=noise.grid_noise(NARROW, SIZE, sigma_steps))["f"](tensor(KEY), tensor(NONCE), made)
    return np.asarray(made.numpy())


def folded(grid: NoiseGrid | None, *batches: np.ndarray) -> tuple[np.ndarray, int]:
    """Sums, and how many batch sums were left out."""
    sums, rejected = tensor(np.zeros(SIZE, "int64" if grid else "float64")), tensor(np.zeros(1, "int64"))
    function = build(NARROW, f=update.fold(NARROW, str(batches[0].dtype), FLAT, grid))["f"]
    for each in batches:
        pieces = [each[start : start + size].copy() for start, size in zip(FLAT.offsets, FLAT.sizes, strict=True)]
        function(*map(tensor, pieces), rejected, sums)
    assert not sums.numpy()[FLAT.padding].any()
    return np.asarray(sums.numpy()), int(rejected.numpy()[0])


def padded(random: np.random.Generator, dtype: str = "float64") -> np.ndarray:
    """Random values with zeros in the padding, as the flat layout has them."""
    values = np.zeros(SIZE, dtype)
    values[REAL] = random.standard_normal(REAL.size)
    return values


def test_flat_layout_pads_every_tensor_to_rows() -> None:
    assert FLAT.offsets == (0, 1008, 1024, 1040)
    assert SIZE == 1040 + 33 * gaussian.SEGMENT
    assert list(FLAT.padding) == [*range(1000, 1008), *range(1031, 1040)]
    assert SIZE % gaussian.SEGMENT  # so that these tests reach the shorter last segment


def test_release_is_a_multiple_of_the_step_whatever_the_sum() -> None:
    """Case 09: gradient sums g and g + 1e-3 release values from the same grid, sum and noise added as integers."""
    grid, random = NoiseGrid.of(1.0, 1.0), np.random.default_rng(0)
    g = padded(random, "float32")
    run = build(NARROW, f=update.update(NARROW, "float64", Update(FLAT, 1.0, grid)))["f"]
    noise_steps = drawn(grid.sigma_steps)[REAL]
    released = []
    for each in (g, g + np.float32(1e-3)):
        before, _ = folded(grid, each)
        parameters, sums = tensor(np.zeros(SIZE)), tensor(before)
        run(tensor(np.array([1.0, 1.0, 0.0])), tensor(KEY), tensor(NONCE), sums, parameters)
        steps = -parameters.numpy()[REAL] / grid.step
        np.testing.assert_array_equal(steps, np.round(steps))
        np.testing.assert_array_equal(steps, before[REAL] + noise_steps)
        assert not sums.numpy().any()
        released.append(steps)
    moved = (released[1] - released[0]) * grid.step
    np.testing.assert_allclose(moved, 1e-3, atol=1e-6)  # float32 spacing of g; the noise is the same, to the bit


def test_private_update_is_sgd_on_the_noisy_average() -> None:
    """Float32, momentum, Nesterov, weight decay, several steps: each with its own noise, as torch would take it."""
    grid, random = NoiseGrid.of(0.8, 2.0), np.random.default_rng(3)
    what = Update(FLAT, 32.0, grid, 0.9, True, 0.01)
    library = build(
        NARROW, f=update.update(NARROW, "float32", what), n=noise.grid_noise(NARROW, SIZE, grid.sigma_steps)
    )
    start = padded(random, "float32")
    parameters, velocity = tensor(start), tensor(np.zeros(SIZE, "float32"))
    reference = torch.from_numpy(start.astype("float64")).requires_grad_()
    optimizer = torch.optim.SGD([reference], 0.05, 0.9, weight_decay=0.01, nesterov=True)
    for number in range(3):
        sums, _ = folded(grid, padded(random, "float32"))
        nonce, made = tensor(chacha.stream_nonce(number)), tensor(np.zeros(SIZE, "int64"))
        library["n"](tensor(KEY), nonce, made)
        gradient = (sums + made.numpy()).astype("float64") * grid.step / 32
        gradient[FLAT.padding] = 0
        scalars = tensor(np.array([0.05, float(number == 0), 0.0]))
        library["f"](scalars, tensor(KEY), nonce, tensor(sums), velocity, parameters)
        reference.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose(parameters.numpy(), reference.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_padding_stays_zero() -> None:
    what = Update(FLAT, 1.0, NoiseGrid.of(1.0, 1.0), 0.9)
    run = build(NARROW, f=update.update(NARROW, "float32", what))["f"]
    parameters, velocity = tensor(np.zeros(SIZE, "float32")), tensor(np.zeros(SIZE, "float32"))
    for number in range(2):
        sums = tensor(np.full(SIZE, 7, "int64"))
        scalars, nonce = tensor(np.array([0.1, float(number == 0), 0.0])), tensor(chacha.stream_nonce(number))
        run(scalars, tensor(KEY), nonce, sums, velocity, parameters)
    for each in (parameters, velocity):
        assert not each.numpy()[FLAT.padding].any()
        assert np.abs(each.numpy()[REAL]).min() > 0


def test_same_key_and_nonce_give_the_same_bits() -> None:
    grid = NoiseGrid.of(1.0, 1.0)
    runs = [
        build(MACHINES[name], f=update.update(MACHINES[name], "float32", Update(FLAT, 8.0, grid)))["f"]
        for name in MACHINES
    ]
    results = []
    for run, nonce in [(runs[0], 1), (runs[0], 1), (runs[1], 1), (runs[0], 2)]:
        parameters, sums = tensor(np.zeros(SIZE, "float32")), tensor(np.zeros(SIZE, "int64"))
        run(tensor(np.array([0.1, 1.0, 0.0])), tensor(KEY), tensor(chacha.stream_nonce(nonce)), sums, parameters)
        results.append(parameters.numpy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert abs(np.corrcoef(results[0], results[3])[0, 1]) < 6 / np.sqrt(SIZE)


def test_fold_adds_on_the_grid_and_drops_what_is_not_finite() -> None:
    grid, batch = NoiseGrid.of(1.0, 1.0), padded(np.random.default_rng(1), "float32")
    expected = np.round(batch.astype("float64") / grid.step).astype("int64")
    sums, rejected = folded(grid, batch, batch)
    np.testing.assert_array_equal(sums, 2 * expected)
    assert rejected == 0
    poisoned = batch.copy()
    places = np.array([0, 1030, 2000, SIZE - 2, SIZE - 1])  # a core's share, a narrow tensor, another core's
    poisoned[places] = (np.nan, np.inf, -np.inf, 1e30, -1e30)  # the last two are finite, but no int64 holds their steps
    expected[places] = 0
    sums, rejected = folded(grid, poisoned, poisoned)
    np.testing.assert_array_equal(sums, 2 * expected)
    assert rejected == 10
    sums, rejected = folded(None, poisoned)
    assert rejected == 3  # the ends of a tensor, of a core's share, and of the last vector
    np.testing.assert_array_equal(sums, np.where(np.isfinite(poisoned), poisoned, 0).astype("float64"))


def test_fold_is_exact_up_to_the_largest_sums() -> None:
    """Sums of many examples pass 2⁵¹ steps, where rounding by one float64 constant ends."""
    grid, random = NoiseGrid.of(0.0, 1.0), np.random.default_rng(6)
    sign = random.choice([-1.0, 1.0], SIZE)
    large = sign * 2.0 ** random.uniform(0, 60.9, SIZE) * grid.step
    large[FLAT.padding] = 0.0
    large[:2] = (2.0**61 * grid.step, np.nextafter(2.0**61, 0) * grid.step)  # the first is one too large
    sums, rejected = folded(grid, large)
    expected = [0 if abs(value) >= 2**61 else round(value) for value in (large / grid.step).tolist()]
    assert sums.tolist() == expected
    assert rejected == 1


def test_folding_parts_is_folding_the_whole_on_the_grid() -> None:
    """Case 07: one logical batch as 1 × 12 or as 3 × 4, where the parts lie on the grid already."""
    grid, random = NoiseGrid.of(0.0, 1.0), np.random.default_rng(5)
    parts = [random.integers(-(2**20), 2**20, SIZE) * grid.step * 2.0**10 for _ in range(3)]
    groupings: list[list[np.ndarray]] = [parts, [parts[0] + parts[1] + parts[2]], parts[::-1]]
    for given, taken in pairwise(groupings):
        np.testing.assert_array_equal(folded(grid, *given)[0], folded(grid, *taken)[0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("grid", [None, NoiseGrid.of(0.0, 1.0)], ids=["plain", "no noise"])
def test_update_without_noise_is_torch_sgd(
    momentum: float, nesterov: bool, weight_decay: float, grid: NoiseGrid | None
) -> None:
    random = np.random.default_rng(2)
    start, what = padded(random), Update(FLAT, 8.0, grid, momentum, nesterov, weight_decay)
    run = build(NARROW, f=update.update(NARROW, "float64", what))["f"]
    parameters, velocity = tensor(start), tensor(padded(random))  # what the velocity holds before does not matter
    reference = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.SGD([reference], 0.1, momentum, weight_decay=weight_decay, nesterov=nesterov)
    secrets: tuple[Any, ...] = (tensor(KEY), tensor(NONCE)) if grid else ()
    for number in range(4):
        gradient, rate = padded(random), 0.1 / (1 + number)
        sums = tensor(folded(grid, gradient)[0])
        more: tuple[Any, ...] = (velocity,) if momentum else ()
        run(tensor(np.array([rate, float(number == 0), 0.0])), *secrets, sums, *more, parameters)
        reference.grad = torch.from_numpy(gradient / 8)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        tolerance = 1e-12 if grid is None else 1e-11  # a step of the grid is 9e-13
        np.testing.assert_allclose(parameters.numpy(), reference.detach().numpy(), rtol=tolerance, atol=tolerance)
        assert not sums.numpy().any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nesterov": True}, "Nesterov"),
        ({"momentum": -0.1}, "not negative"),
        ({"weight_decay": -1.0}, "not negative"),
        ({"expected_batch_size": 0.0}, "positive"),
        ({"expected_batch_size": float("nan")}, "positive"),
        ({"flat": Flat(())}, "multiple of 16"),
    ],
)
def test_updates_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(NoiseError, match=message):
        Update(**{"flat": FLAT, "expected_batch_size": 8.0, **changes})  # type: ignore[arg-type]  # hostile on purpose
