"""Noise on the grid and the fused update: statistics, the floating-point guard, and torch.optim.SGD without noise."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tvm.runtime import tensor

from privlib.compiler.kernels import noise, update
from privlib.compiler.kernels.noise import NoiseGrid
from privlib.compiler.kernels.update import Update
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build

KEY, NONCE = np.arange(8, dtype="uint32"), np.array([1, 0, 0], "uint32")
SIZE = 2048
NARROW = MACHINES["narrow"]


def draw(
    machine: Machine, count: int, sigma_steps: float, key: np.ndarray = KEY, nonce: np.ndarray = NONCE
) -> np.ndarray:
    made = tensor(np.zeros(count, "int64"))
    build(machine, f=noise.grid_noise(machine, count, sigma_steps))["f"](tensor(key), tensor(nonce), made)
    return np.asarray(made.numpy())


def test_noise_is_gaussian_to_the_tails() -> None:
    count, sigma = 1 << 21, 2.0**30
    z = draw(NARROW, count, sigma) / sigma
    assert abs(z.mean()) < 5 / math.sqrt(count)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs(stats.kurtosis(z)) < 5 * math.sqrt(24 / count)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    for threshold in (3.0, 4.0, 4.5):
        expected = 2 * count * stats.norm.sf(threshold)
        assert abs((np.abs(z) > threshold).sum() - expected) < 6 * math.sqrt(expected)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / math.sqrt(count)


def test_noise_depends_on_key_and_nonce_alone() -> None:
    first, sigma = draw(NARROW, SIZE, 2.0**30), 2.0**30
    np.testing.assert_array_equal(draw(NARROW, SIZE, sigma), first)
    three_cores = Machine("x86-64-v3", vector_bytes=32, tile_rows=4, tile_vectors=2, cores=3)
    np.testing.assert_array_equal(draw(three_cores, SIZE, sigma), first)
    np.testing.assert_array_equal(draw(NARROW, 2 * SIZE, sigma)[:SIZE], first)
    for other in (draw(NARROW, SIZE, sigma, nonce=NONCE + 1), draw(NARROW, SIZE, sigma, key=KEY + 1)):
        assert abs(np.corrcoef(other, first)[0, 1]) < 6 / math.sqrt(SIZE)


@pytest.mark.parametrize(("multiplier", "norm"), [(1.0, 1.0), (0.7, 3.0), (37.31, 0.25), (2**-10, 1e-3)])
def test_grid_is_a_power_of_two_far_below_sigma(multiplier: float, norm: float) -> None:
    grid = NoiseGrid.of(multiplier, norm)
    assert math.frexp(grid.step)[0] == 0.5
    assert 2**30 <= grid.sigma_steps < 2**31
    assert grid.sigma_steps * grid.step == pytest.approx(multiplier * norm, rel=1e-15)
    assert 2**20 * norm / grid.step + 10 * grid.sigma_steps < 2**62


@pytest.mark.parametrize(
    ("multiplier", "norm"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf), (1e-4, 1.0)]
)
def test_parameters_without_a_grid_are_refused(multiplier: float, norm: float) -> None:
    with pytest.raises(ValueError, match="no grid"):
        NoiseGrid.of(multiplier, norm)


def folded(grid: NoiseGrid | None, *batches: np.ndarray) -> Any:
    sums = tensor(np.zeros(SIZE, "int64" if grid else "float64"))
    function = build(NARROW, f=update.fold(NARROW, str(batches[0].dtype), SIZE, grid))["f"]
    for each in batches:
        function(tensor(each), sums)
    return sums


def test_release_is_a_multiple_of_the_step_whatever_the_sum() -> None:
    """Case 09: gradient sums g and g + 1e-3 release values from the same grid, sum and noise added as integers."""
    grid, random = NoiseGrid.of(1.0, 1.0), np.random.default_rng(0)
    g = random.standard_normal(SIZE).astype("float32")
    run = build(NARROW, f=update.update(NARROW, "float64", Update(SIZE, 1.0, grid)))["f"]
    made = []
    for each in (g, g + np.float32(1e-3)):
        parameters, sums = tensor(np.zeros(SIZE)), folded(grid, each)
        before = sums.numpy().copy()
        run(tensor(np.array([1.0, 1.0])), tensor(KEY), tensor(NONCE), sums, parameters)
        steps = -parameters.numpy() / grid.step
        np.testing.assert_array_equal(steps, np.round(steps))
        np.testing.assert_array_equal(steps - before, draw(NARROW, SIZE, grid.sigma_steps))
        assert not sums.numpy().any()
        made.append(steps - before)
    np.testing.assert_array_equal(made[0], made[1])


def test_fold_adds_on_the_grid_and_drops_what_is_not_finite() -> None:
    grid, batch = NoiseGrid.of(1.0, 1.0), np.random.default_rng(1).standard_normal(SIZE).astype("float32")
    expected = np.round(batch.astype("float64") / grid.step).astype("int64")
    np.testing.assert_array_equal(folded(grid, batch, batch).numpy(), 2 * expected)
    poisoned = batch.copy()
    poisoned[:5] = (np.nan, np.inf, -np.inf, 1e30, -1e30)  # the last two are finite, but no int64 holds their steps
    expected[:5] = 0
    np.testing.assert_array_equal(folded(grid, poisoned).numpy(), expected)
    plain = np.concatenate([np.zeros(3), poisoned[3:].astype("float64")])
    np.testing.assert_array_equal(folded(None, poisoned).numpy(), plain)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_plain_update_is_torch_sgd(momentum: float, nesterov: bool, weight_decay: float) -> None:
    if nesterov and not momentum:
        with pytest.raises(ValueError, match="[Nn]esterov"):
            torch.optim.SGD([torch.zeros(1)], 0.1, nesterov=True)
        return
    random = np.random.default_rng(2)
    start = random.standard_normal(SIZE)
    what = Update(SIZE, 8.0, None, momentum, nesterov, weight_decay)
    run = build(NARROW, f=update.update(NARROW, "float64", what))["f"]
    parameters, velocity = tensor(start), tensor(np.zeros(SIZE))
    reference = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.SGD([reference], 0.1, momentum, weight_decay=weight_decay, nesterov=nesterov)
    for number in range(4):
        gradient, rate = random.standard_normal(SIZE), 0.1 / (1 + number)
        sums = folded(None, gradient)
        more = (velocity,) if momentum else ()
        run(tensor(np.array([rate, float(number == 0)])), sums, *more, parameters)
        reference.grad = torch.from_numpy(gradient / 8)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        np.testing.assert_allclose(parameters.numpy(), reference.detach().numpy(), rtol=1e-12, atol=1e-14)
        assert not sums.numpy().any()
