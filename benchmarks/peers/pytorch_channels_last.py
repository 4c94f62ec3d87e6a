"""PyTorch eager, float32, weights and images in channels-last memory format."""

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _pytorch
from benchmarks.peers.pytorch_eager import versions

__all__ = ["PRECISION", "inference", "training", "versions"]

PRECISION = "float32"


def inference(case: Case) -> Callable[[], Any]:
    """Logits of the case's batch as an array (batch_size, num_classes)."""
    import torch

    from privlib.models import fold_batch_norm

    _pytorch.use_all_cores()
    model = fold_batch_norm(case.model()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(case.input()).to(memory_format=torch.channels_last)

    def run() -> Any:
        with torch.inference_mode():
            return model(images).numpy()

    return run


def training(case: Case) -> Prepared:
    """One step of SGD."""
    return _pytorch.training(case, channels_last=True)
