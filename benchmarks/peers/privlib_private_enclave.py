"""privlib_private's artifact in an enclave: encrypted examples in, a release with its certificate out."""

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _enclave
from benchmarks.peers._enclave import peak_bytes
from benchmarks.peers._privlib import versions

__all__ = ["PRECISION", "facts", "peak_bytes", "training", "versions"]

PRECISION = "float32"
PRIVATE = True


def training(case: Case) -> Prepared:
    """An epoch inside."""
    return _enclave.training(case, "benchmarks.peers.privlib_private", __name__)


def facts(case: Case, peer: str, run: object) -> dict[str, float]:
    """What crossed, and what is mapped."""
    return _enclave.facts(run)
