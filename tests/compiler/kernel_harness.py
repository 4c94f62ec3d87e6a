"""Running one generated kernel on guarded memory.

Every input lies between bands of NaN, so that a read outside poisons the result; the output lies between bands of
another value, where a write outside is seen. It starts as NaN, so an element that is never written is seen too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm.runtime import from_dlpack

from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.target import Machine

# The register tiles of both CPU levels; both run here, because LLVM splits a vector wider than the CPU's. Three cores
# divide few of the shapes evenly.
NARROW = Machine("x86-64-v3", vector_bytes=32, tile_rows=4, tile_vectors=2, cores=2)
WIDE = Machine("x86-64-v3", vector_bytes=64, tile_rows=8, tile_vectors=2, cores=3)
MACHINES = {"narrow": NARROW, "wide": WIDE}
# Relative L2 distance from the float64 reference: a few roundings of the longest sums.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
GUARD = 64  # elements
SENTINEL = 54321.0


class Guarded:
    """An array in 64-byte-aligned memory between two bands of one value."""

    def __init__(self, values: np.ndarray, band: float) -> None:
        size, item = values.size, values.dtype.itemsize
        self.memory, self.band = np.full(size + 3 * GUARD, band, values.dtype), band
        start = GUARD + (-(self.memory.ctypes.data + GUARD * item) % 64) // item
        self.bands = (slice(0, start), slice(start + size, None))
        self.values = self.memory[start : start + size].reshape(values.shape)
        self.values[...] = values

    def tensor(self) -> Any:
        return from_dlpack(self.values)

    def check(self) -> None:
        for band in self.bands:
            np.testing.assert_array_equal(self.memory[band], self.band, err_msg="the kernel wrote outside its tensor")


def build(machine: Machine, **functions: "tvm.tirx.PrimFunc") -> Any:
    """Compile kernels, by name, to one library."""
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    return tvm.compile(module, target=machine.tvm_target())


def run(function: Any, inputs: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Call a kernel; checks that it leaves its inputs and all memory around its tensors alone."""
    guarded = [Guarded(array, np.nan) for array in inputs]
    output = Guarded(np.full(shape, np.nan, inputs[0].dtype), SENTINEL)
    function(*(each.tensor() for each in guarded), output.tensor())
    for each, array in zip(guarded, inputs, strict=True):
        each.check()
        np.testing.assert_array_equal(each.values, array, err_msg="the kernel changed an input")
    output.check()
    return output.values


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Relative L2 distance, and no single element far out."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all(), "elements were never written, or read from outside"
    norm = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) <= tolerance * norm
    assert np.abs(found - expected).max() <= 30 * tolerance * max(norm / np.sqrt(expected.size), np.abs(expected).max())


def epilogue(result: np.ndarray, steps: Epilogue, extras: Mapping[str, np.ndarray]) -> np.ndarray:
    """The epilogue's definition: + bias (last axis), + residual, activation."""
    if steps.bias:
        result = result + extras["bias"].astype(np.float64)
    if steps.residual:
        result = result + extras["residual"].astype(np.float64)
    if steps.activation != "none":
        result = np.maximum(result, 0.0)
    return np.minimum(result, 6.0) if steps.activation == "relu6" else result


def epilogue_arguments(
    steps: Epilogue, shape: Sequence[int], dtype: str, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random bias and residual for an output of `shape`, as far as the epilogue takes them, in calling order."""
    extras = {"bias": shape[-1:], "residual": tuple(shape)}
    wanted = {"bias": steps.bias, "residual": steps.residual}
    return {name: random.standard_normal(size).astype(dtype) for name, size in extras.items() if wanted[name]}
