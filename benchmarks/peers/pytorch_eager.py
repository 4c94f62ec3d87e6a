"""PyTorch as written: eager, float32; for inference BatchNorm folded."""

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _pytorch

PRECISION = "float32"


def versions() -> dict[str, str]:
    """PyTorch's version."""
    import torch

    return {"torch": torch.__version__}


def inference(case: Case) -> Callable[[], Any]:
    """Logits of the case's batch as an array (batch_size, num_classes)."""
    import torch

    from privlib.models import fold_batch_norm

    _pytorch.use_all_cores()
    model, images = fold_batch_norm(case.model()), torch.from_numpy(case.input())

    def run() -> Any:
        with torch.inference_mode():
            return model(images).numpy()

    return run


def training(case: Case) -> Prepared:
    """One step of SGD."""
    return _pytorch.training(case)
