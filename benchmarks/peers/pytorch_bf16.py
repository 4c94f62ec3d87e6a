"""PyTorch eager under bf16 autocast, channels last: another precision, shown beside the float32 rows."""

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case, Prepared
from benchmarks.peers import _pytorch
from benchmarks.peers.pytorch_eager import versions
from privlib.suite import system

__all__ = ["PRECISION", "inference", "training", "unavailable", "versions"]

PRECISION = "bfloat16"


def unavailable() -> str | None:
    """Without bf16 instructions oneDNN emulates them, ten times slower than float32: nothing to compare with."""
    if {"avx512_bf16", "amx_bf16", "bf16"} & set(system.cpu_features()):
        return None
    return "this processor has no bf16 instructions."


def inference(case: Case) -> Callable[[], Any]:
    """Logits of the case's batch as a float32 array (batch_size, num_classes)."""
    import torch

    from privlib.models import fold_batch_norm

    _pytorch.use_all_cores()
    model = fold_batch_norm(case.model()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(case.input()).to(memory_format=torch.channels_last)

    def run() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return model(images).float().numpy()

    return run


def training(case: Case) -> Prepared:
    """One step of SGD; weights and update stay float32."""
    import torch

    return _pytorch.training(case, channels_last=True, autocast=torch.bfloat16)
