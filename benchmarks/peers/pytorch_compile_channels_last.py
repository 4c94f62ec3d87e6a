"""`torch.compile`, weights and images in channels-last memory format."""

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _pytorch
from benchmarks.peers.pytorch_eager import versions

__all__ = ["PRECISION", "training", "versions"]

PRECISION = "float32"


def training(case: Case) -> Prepared:
    """One step of SGD."""
    return _pytorch.training(case, channels_last=True, compiled=True)
