"""`torch.compile`; for inference with Inductor's freezing: weights are constants, BatchNorm is folded, Inductor chooses
layouts."""

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
    from torch._inductor import config

    from privlib.models import fold_batch_norm

    _pytorch.use_all_cores()
    config.freezing = True
    model, images = torch.compile(fold_batch_norm(case.model())), torch.from_numpy(case.input())

    def run() -> Any:
        # Freezing wants no_grad; inference_mode would compile a graph that it does not freeze.
        with torch.no_grad():
            return model(images).numpy()

    return run


def training(case: Case) -> Prepared:
    """One step of SGD."""
    return _pytorch.training(case, compiled=True)
