"""PyTorch eager under bf16 autocast in its default memory format: which of the two is faster depends on the CPU."""

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _pytorch
from benchmarks.peers.pytorch_bf16 import unavailable
from benchmarks.peers.pytorch_eager import versions

__all__ = ["PRECISION", "training", "unavailable", "versions"]

PRECISION = "bfloat16"


def training(case: Case) -> Prepared:
    """One step of SGD; weights and update stay float32."""
    import torch

    return _pytorch.training(case, autocast=torch.bfloat16)
