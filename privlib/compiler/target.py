"""What the CPU can do: vector level, lanes, registers, cores; kernels are chosen by these features and never by a CPU's
name."""

import os
from dataclasses import dataclass

import tvm

from privlib.errors import PrivlibError
from privlib.trusted.runtime import LEVELS, cpu_features


class TargetError(PrivlibError):
    """The CPU (or the level asked for) is not one that kernels exist for."""


@dataclass(frozen=True)
class Machine:
    """The facts a kernel generator needs.

    level: psABI level the code is built for. vector_bytes: width of one vector register. tile_rows × tile_vectors: the
    register tile (rows × vectors of accumulators) that saturates two FMA ports of latency 4. cores: threads the kernels
    are split for.
    """

    level: str
    vector_bytes: int
    tile_rows: int
    tile_vectors: int
    cores: int

    def lanes(self, dtype: str) -> int:
        """Elements of `dtype` ("float32" or "float64") in one vector register."""
        return self.vector_bytes // {"float32": 4, "float64": 8}[dtype]

    def tvm_target(self) -> "tvm.target.Target":
        """TVM target with the level named: a bare `llvm` names no CPU, and 256-bit vectors are not preferred where 512
        exist."""
        config: dict[str, object] = {"kind": "llvm", "mcpu": self.level}
        if self.level == "x86-64-v4":
            config["mattr"] = ["-prefer-256-bit"]
        return tvm.target.Target(config)


def available_cores() -> int:
    """Cores this process may run on (affinity respected)."""
    return len(os.sched_getaffinity(0))


def machine(target: str = "native", cores: int | None = None) -> Machine:
    """Resolve `target` ("native", "x86-64-v3", "x86-64-v4") to a Machine.

    Raises TargetError for an unknown name, and for "native" on a CPU below x86-64-v3. A named level may be above what
    this CPU has: such code can be compiled here and run elsewhere.
    """
    if target == "native":
        level = next((name for name, needed in LEVELS.items() if needed <= cpu_features()), None)
        if level is None:
            raise TargetError(
                "this CPU lacks AVX2 and FMA (x86-64-v3), which privlib's kernels need; run on a CPU of 2015 or newer"
            )
    elif target in LEVELS:
        level = target
    else:
        raise TargetError(f"unknown target {target!r}; use 'native' or one of {', '.join(LEVELS)}")
    wide = level == "x86-64-v4"
    return Machine(level, 64 if wide else 32, 8 if wide else 4, 2, cores or available_cores())


def runs_here(level: str) -> bool:
    """Whether this CPU has every feature of `level`."""
    return LEVELS[level] <= cpu_features()
