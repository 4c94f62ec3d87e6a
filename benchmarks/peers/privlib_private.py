"""privlib's fused DP-SGD step: per-example norms, clipping, sum, noise and update in native code."""

import sys
from pathlib import Path

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _privlib
from benchmarks.peers._privlib import facts, versions

__all__ = ["PRECISION", "PRIVATE", "accumulation", "facts", "training", "versions"]

PRECISION = "float32"
PRIVATE = True


def training(case: Case) -> Prepared:
    """One step of DP-SGD."""
    return _privlib.training(case, __name__)


def accumulation(case: Case) -> Prepared:
    """The clipped sum of one batch, left in native memory."""
    return _privlib.accumulation(case, __name__)


if __name__ == "__main__":
    _privlib.export(Path(sys.argv[1]), Path(sys.argv[2]), private=True)
