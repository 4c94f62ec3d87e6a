"""Noise on the grid: its construction recomputed from another ChaCha20, and what a Gaussian must look like."""

import hashlib
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats
from tvm.runtime import tensor
from tvm.tirx.script.builder import ir as T

from privlib.compiler import target
from privlib.compiler.kernels import chacha, gaussian, noise
from privlib.compiler.kernels.builder import Kernel
from privlib.compiler.kernels.noise import NoiseError, NoiseGrid
from privlib.compiler.target import Machine
from tests.compiler.kernel_harness import MACHINES, build

KEY, NARROW, SIGMA = np.arange(8, dtype="uint32"), MACHINES["narrow"], 1.5 * 2.0**30


@cache
def kernel(machine: Machine, count: int) -> Any:
    return build(machine, f=noise.grid_noise(machine, count, SIGMA))["f"]


def draw(count: int, machine: Machine = NARROW, key: np.ndarray = KEY, steps: tuple[int, ...] = (1,)) -> np.ndarray:
    """Noise in steps, int64 (len(steps), count)."""
    made = [tensor(np.zeros(count, "int64")) for _ in steps]
    for buffer, step in zip(made, steps, strict=True):
        kernel(machine, count)(tensor(key), tensor(chacha.stream_nonce(step)), buffer)
    return np.stack([np.asarray(each.numpy()) for each in made])


def reference(segments: int, nonce: np.ndarray) -> np.ndarray:
    """Standard normals by the layout and bits of gaussian.py's docstring, in 80-bit floats."""
    start = (0).to_bytes(4, "little") + nonce.astype("<u4").tobytes()
    stream = Cipher(algorithms.ChaCha20(KEY.astype("<u4").tobytes(), start), mode=None).encryptor()
    raw = stream.update(bytes(64 * 16 * segments))
    # (segment, j, which of the two words' blocks, r, first or second word)
    words = np.frombuffer(raw, "<u4").astype("uint64").reshape(segments, 8, 2, 8, 2)
    first, second = (words[:, :, 0, :, half] | words[:, :, 1, :, half] << np.uint64(32) for half in (0, 1))
    fine = ((second >> np.uint64(52) & np.uint64(1023)).astype(np.longdouble) + 0.5) / 1024
    radius = np.sqrt(-2 * np.log((first.astype(np.longdouble) + fine) / np.longdouble(2) ** 64))
    turn = (second & np.uint64((1 << 52) - 1)).astype(np.longdouble) / 2**52 - 0.5
    angle = turn * np.longdouble("1.57079632679489661923132169163975144")
    cosine = np.cos(angle) * np.where(second >> np.uint64(62) & np.uint64(1), -1, 1)
    exchange = (second >> np.uint64(63)).astype(bool)
    x, y = np.where(exchange, np.sin(angle), cosine), np.where(exchange, cosine, np.sin(angle))
    rows = np.stack([radius * x, radius * y], axis=1)  # (segment, which, j, r)
    return rows.transpose(0, 3, 1, 2).reshape(-1)


@pytest.mark.parametrize("name", MACHINES)
def test_noise_is_the_documented_construction(name: str) -> None:
    count = 40 * gaussian.SEGMENT
    expected = reference(40, chacha.stream_nonce(1)) * SIGMA
    error = np.abs(draw(count, MACHINES[name])[0] - expected)
    assert error.max() < 0.5 + 2e-15 * gaussian.LARGEST * SIGMA  # rounding to a step, and float64's


def test_extreme_words_reach_the_ends_of_the_tail_and_of_the_circle() -> None:
    """Words all zero, all one and in between: never log 0, the radius of exactly the uniform that is documented."""
    first = np.array([0, 0, 0, 1, 2**64 - 1, 2**64 - 1, 2**63, 2**53], "uint64")
    second = np.array([0, 1023 << 52, 2**64 - 1, 0, 0, 2**64 - 1, 3 << 62, 1 << 51], "uint64")
    kernel = Kernel(NARROW, "float64")
    with kernel.function():
        one, two = (kernel.argument(name, (8,), "uint64") for name in ("first", "second"))
        outputs = [kernel.argument(name, (8,)) for name in ("x", "y")]
        made = gaussian.box_muller(T.Bind(kernel.load(one, 0, lanes=8)), T.Bind(kernel.load(two, 0, lanes=8)), 1.0)
        for output, value in zip(outputs, made, strict=True):
            kernel.store(output, value, 0, lanes=8)
    x, y = tensor(np.zeros(8)), tensor(np.zeros(8))
    build(NARROW, f=kernel.finish())["f"](tensor(first), tensor(second), x, y)
    fine = ((second >> np.uint64(52) & np.uint64(1023)).astype("float64") + 0.5) / 1024
    uniform = (first.astype(np.longdouble) + fine.astype(np.longdouble)) / np.longdouble(2) ** 64
    rounded = np.where(first < 2**60, uniform, (uniform * 2.0**64).astype("float64") * 2.0**-64)
    radius = np.sqrt(-2 * np.log(rounded.astype(np.longdouble))).astype("float64")
    np.testing.assert_allclose(np.hypot(x.numpy(), y.numpy()), radius, rtol=1e-15, atol=0)
    assert radius.max() == pytest.approx(gaussian.LARGEST, rel=1e-15)
    assert radius.min() == 0.0


@pytest.mark.parametrize(("level", "wanted"), [("x86-64-v3", ("vpshufb", "%ymm")), ("x86-64-v4", ("vprold", "%zmm"))])
def test_noise_is_vector_code_without_a_math_library(level: str, wanted: tuple[str, ...]) -> None:
    cpu = target.machine(level)
    text = build(cpu, f=noise.grid_noise(cpu, 4096, SIGMA)).mod.inspect_source("asm")
    for instruction in ("vsqrtpd", "vdivpd", "vfmadd", *wanted):
        assert instruction in text
    assert not re.search(r"\b(log|sin|cos|sqrt|round|nearbyint)[fl]?(@PLT)?$", text, re.MULTILINE)
    assert not re.search(r"\bv(sqrt|div|cvtsi2|cvttsd2)\w*s[ds]\b", text)  # nothing element by element


def test_noise_depends_on_key_nonce_and_index_alone() -> None:
    count = 40 * gaussian.SEGMENT
    first = draw(count)[0]
    three_cores = Machine("x86-64-v3", vector_bytes=32, tile_rows=4, tile_vectors=2, cores=3)
    for machine in (NARROW, MACHINES["wide"], three_cores):
        np.testing.assert_array_equal(draw(count, machine)[0], first)
    for shorter in (gaussian.ROW, 33 * gaussian.SEGMENT + 3 * gaussian.ROW):
        np.testing.assert_array_equal(draw(shorter)[0], first[:shorter])


THREADS = """
import hashlib, os, sys
sys.modules["torch"] = None  # TVM imports it where it can, for seconds
import numpy as np
from tvm.runtime import load_module, tensor
key, nonce, made = np.load(sys.argv[2]), np.load(sys.argv[3]), tensor(np.zeros(1 << 17, "int64"))
load_module(sys.argv[1])["f"](tensor(key), tensor(nonce), made)
print(hashlib.sha256(made.numpy().tobytes()).hexdigest(), len(os.listdir("/proc/self/task")))
"""


def test_noise_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """In processes of their own, because TVM's pool keeps the size of its first use."""
    build(NARROW, f=noise.grid_noise(NARROW, 1 << 17, SIGMA)).export_library(str(tmp_path / "noise.so"))
    np.save(tmp_path / "key.npy", KEY)
    np.save(tmp_path / "nonce.npy", chacha.stream_nonce(1))
    files, results = [str(tmp_path / name) for name in ("noise.so", "key.npy", "nonce.npy")], []
    for threads in ("1", "3"):
        environment = {**os.environ, "TVM_NUM_THREADS": threads, "TVM_USE_RUNTIME_LIB": "1"}
        done = subprocess.run(
            [sys.executable, "-c", THREADS, *files], env=environment, capture_output=True, text=True, check=True
        )
        results.append(done.stdout.split())
    (one, alone), (other, together) = results
    assert one == other == hashlib.sha256(draw(1 << 17)[0].tobytes()).hexdigest()
    assert int(together) == int(alone) + 2  # the pool really had two more threads


def test_noise_is_gaussian() -> None:
    count = 1 << 21
    z = draw(count)[0] / SIGMA
    assert abs(z.mean()) < 5 / math.sqrt(count)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs(stats.skew(z)) < 5 * math.sqrt(6 / count)
    assert abs(stats.kurtosis(z)) < 5 * math.sqrt(24 / count)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    low_bits = np.bincount(draw(count)[0] & 255, minlength=256)
    assert stats.chisquare(low_bits).pvalue > 1e-4  # steps are far below sigma, so the low bits are uniform


def test_tails_have_their_weight_beyond_five_sigma() -> None:
    drawn = np.concatenate([np.abs(draw(1 << 21, steps=(step,))).ravel() for step in range(16)])
    for threshold in (3.0, 4.0, 5.0, 5.5):
        expected = 2 * drawn.size * stats.norm.sf(threshold)
        found = int((drawn > threshold * SIGMA).sum())
        assert abs(found - expected) < 5 * math.sqrt(expected) + 1, threshold
    assert (drawn > 5 * SIGMA).sum() >= 5


def test_normals_are_independent_of_each_other() -> None:
    count = 1 << 21
    z = draw(count)[0] / SIGMA
    bound = 5 / math.sqrt(count)
    for lag in (1, 2, 4, 8, 9, 16, 24, 64, 128, 256):  # 8: the two of a pair
        for one in (z, z**2 - 1, np.abs(z) - math.sqrt(2 / math.pi)):
            assert abs(np.corrcoef(one[lag:], one[:-lag])[0, 1]) < bound, lag
    rows = z.reshape(-1, 2, 8)
    angle = np.arctan2(rows[:, 1], rows[:, 0]).ravel() / (2 * math.pi) + 0.5
    assert stats.kstest(angle, "uniform").pvalue > 1e-4


def test_other_keys_and_nonces_give_other_noise() -> None:
    count = 1 << 21
    streams = [*draw(count, steps=(0, 1, 2, 1 << 32)), draw(count, key=KEY + 1)[0]]
    for at, one in enumerate(streams):
        for other in streams[:at]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 6 / math.sqrt(count)
            assert np.intersect1d(one[:65536], other[:65536]).size <= 5  # half a value of 2³³ is shared by chance


@pytest.mark.parametrize(
    ("multiplier", "norm"), [(1.0, 1.0), (0.7, 3.0), (37.31, 0.25), (2**-10, 1e-3), (1.0, 2.0**31)]
)
def test_grid_is_a_power_of_two_far_below_sigma(multiplier: float, norm: float) -> None:
    grid = NoiseGrid.of(multiplier, norm)
    assert math.frexp(grid.step)[0] == 0.5
    assert 2**30 <= grid.sigma_steps < 2**31
    assert grid.sigma_steps * grid.step == pytest.approx(multiplier * norm, rel=1e-15)
    assert noise.MAX_EXAMPLES * norm / grid.step + gaussian.LARGEST * grid.sigma_steps < 2**62


def test_small_multipliers_keep_sums_within_int64() -> None:
    for multiplier in (0.0, 1e-9, 1e-4):
        grid = NoiseGrid.of(multiplier, 0.1)
        assert noise.MAX_EXAMPLES * 0.1 / grid.step < 2**62
        assert grid.sigma_steps == multiplier * 0.1 / grid.step


@pytest.mark.parametrize(
    ("multiplier", "norm"),
    [
        (-1.0, 1.0),
        (1.0, 0.0),
        (1.0, -1.0),
        (math.nan, 1.0),
        (1.0, math.nan),
        (1.0, math.inf),
        (math.inf, 1.0),
        (1, 1e-300),
    ],
)
def test_parameters_without_a_grid_are_refused(multiplier: float, norm: float) -> None:
    with pytest.raises(NoiseError, match="no grid"):
        NoiseGrid.of(multiplier, norm)


def test_rounding_counts_in_the_sensitivity() -> None:
    """Two sums 'on either side of one example' differ, after rounding each fold, by no more than is promised."""
    grid, random = NoiseGrid.of(1.3, 0.5), np.random.default_rng(0)
    coordinates, folds, worst = 1000, 4, 0.0
    for _ in range(50):
        example = random.standard_normal(coordinates)
        example *= 0.5 / np.linalg.norm(example)
        parts = random.standard_normal((folds, coordinates)) * 2e-9  # rounding at its worst: a few steps
        shifted = parts + random.uniform(-1e-12, 1e-12, parts.shape)
        with_example = shifted.copy()
        with_example[0] += example
        one, other = (np.round(each / grid.step).sum(0) for each in (parts, with_example))
        worst = max(worst, float(np.linalg.norm(one - other)) * grid.step)
    assert worst <= grid.sensitivity(coordinates, folds)
    assert grid.effective_noise_multiplier(coordinates, folds) == pytest.approx(1.3, rel=1e-5)
    assert grid.effective_noise_multiplier(coordinates, folds) < 1.3
    assert NoiseGrid.of(1.0, 1.0).effective_noise_multiplier(3_500_000, 64) == pytest.approx(1 - 1.1e-4, abs=1e-5)


@pytest.mark.parametrize("count", [0, 8, 17, -16])
def test_sizes_that_are_no_rows_are_refused(count: int) -> None:
    with pytest.raises(NoiseError, match="multiple of 16"):
        noise.grid_noise(NARROW, count, 1.0)


def test_vectors_and_grids_beyond_the_limits_are_refused() -> None:
    with pytest.raises(chacha.StreamError, match="counter"):
        noise.check_size((1 << 35) + gaussian.ROW)
    noise.check_size(1 << 35)
    with pytest.raises(NoiseError, match="coarser"):
        noise.grid_noise(NARROW, 16, 2.0**47)
