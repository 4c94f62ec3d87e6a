"""privlib's artifact in an enclave: encrypted images in, encrypted logits out."""

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _enclave
from benchmarks.peers._enclave import peak_bytes
from benchmarks.peers._privlib import versions

__all__ = ["PRECISION", "facts", "inference", "peak_bytes", "versions"]

PRECISION = "float32"


def inference(case: Case) -> Prepared:
    """Logits from inside."""
    return _enclave.inference(case, "benchmarks.peers.privlib", __name__)


def facts(case: Case, peer: str, run: object) -> dict[str, float]:
    """What crossed, and what is mapped."""
    return _enclave.facts(run)
