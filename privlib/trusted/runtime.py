"""The TVM runtime as privlib uses it: all available cores, a module loaded once its CPU level is known to be here."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import tvm_ffi

from privlib.trusted.artifact import ArtifactError

# psABI levels by the features that tell them apart, as Linux spells them in /proc/cpuinfo
_LEVELS = {
    "x86-64-v3": frozenset({"avx2", "fma", "bmi2"}),
    "x86-64-v4": frozenset({"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}


@cache
def _features() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


@cache
def use_all_cores() -> int:
    """Give TVM's thread pool every core this process may run on; returns their number.

    The pool is made at its first use with half of the hardware threads unless the environment says otherwise, and cannot grow later.
    """
    cores = len(os.sched_getaffinity(0))
    os.environ["TVM_NUM_THREADS"] = str(cores)
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, cores)
    return cores


def virtual_machine(library: Path, level: str) -> Any:
    """Load a compiled library and return its virtual machine on the CPU.

    Raises ArtifactError where the CPU lacks a feature of `level`: the code would die on an illegal instruction.
    """
    missing = sorted(_LEVELS.get(level, frozenset({f"level {level}"})) - _features())
    if missing:
        raise ArtifactError(f"{library} is built for {level}; this CPU lacks {', '.join(missing)}: compile for this machine")
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
    import tvm.runtime
    from tvm.runtime import vm

    use_all_cores()
    return vm.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.runtime.device("cpu"))
