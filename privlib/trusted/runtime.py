"""The TVM runtime as privlib uses it: all available cores, a module loaded once its CPU level is known to be here."""

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from privlib.trusted.artifact import ArtifactError

# What the x86-64 psABI's micro-architecture levels add to an older CPU, as Linux spells it (abm is LZCNT).
_V3 = frozenset({"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}

_threads_later: ContextVar[bool] = ContextVar("threads_later", default=False)


@cache
def cpu_features() -> frozenset[str]:
    """Feature flags of the first CPU as Linux reports them (empty where /proc/cpuinfo is missing)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


@cache
def use_all_cores() -> int:
    """Give TVM's thread pool every core this process may run on; returns their number.

    The pool is made at its first use with half of the hardware threads unless the environment says otherwise, and
    cannot grow later.
    """
    cores = len(os.sched_getaffinity(0))
    os.environ["TVM_NUM_THREADS"] = str(cores)
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, cores)
    return cores


@contextmanager
def threads_later() -> Iterator[None]:
    """Load code without starting TVM's threads; `use_all_cores` starts them. Landlock covers only the thread that asks
    for it and those made after it, so a process that wants to close itself in must do so between the two."""
    token = _threads_later.set(True)
    try:
        yield
    finally:
        _threads_later.reset(token)


def tvm_runtime() -> Any:
    """The module `tvm.runtime`; where PyTorch is not installed, TVM's compiler is left out.

    The choice is made by an environment variable, which goes again at once: a child process may want the compiler.
    """
    name = "TVM_USE_RUNTIME_LIB"
    alone = "tvm" not in sys.modules and name not in os.environ and importlib.util.find_spec("torch") is None
    if alone:
        os.environ[name] = "1"
    try:
        importlib.import_module("tvm.runtime.vm")
        return importlib.import_module("tvm.runtime")
    finally:
        if alone:
            del os.environ[name]


def load_code(library: Path | str, level: str) -> Any:
    """Load a compiled library: a module whose kernels are found with get_function(name, query_imports=True).

    Raises ArtifactError where the CPU lacks a feature of `level`: the code would die on an illegal instruction.
    """
    missing = sorted(LEVELS.get(level, frozenset({f"level {level}"})) - cpu_features())
    if missing:
        raise ArtifactError(
            f"{library} is built for {level}; this CPU lacks {', '.join(missing)}: compile for this machine"
        )
    tvm_runtime()
    if not _threads_later.get():
        use_all_cores()
    # By its name for shared libraries: a private copy's path (/proc/self/fd/N) has no suffix to tell the format by.
    return tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(str(library), "so")


def virtual_machine(code: Any) -> Any:
    """The virtual machine of what `load_code` loaded, on the CPU."""
    runtime = tvm_runtime()
    return runtime.vm.VirtualMachine(code, runtime.device("cpu"))


ALIGNMENT = 128
"""Bytes: memory at a multiple of it is handed to the code as it is, other memory is copied first."""


def aligned_empty(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An uninitialised array at an address that the code may assume to be aligned."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def as_tensor(array: np.ndarray) -> Any:
    """An array as the code takes it: the same memory where that is aligned, dense and writable, else a copy."""
    there = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0
    runtime = tvm_runtime()
    return runtime.from_dlpack(array) if there and array.size else runtime.tensor(array)
