"""What runs inside an enclave, and nothing else: it needs Python, NumPy, cryptography and the TVM runtime, never
PyTorch or a compiler."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privlib.trusted.artifact import ArtifactError, load
    from privlib.trusted.model import CompiledModel
    from privlib.trusted.training import StepResult, TrainingError, TrainingStep

__all__ = ["ArtifactError", "CompiledModel", "StepResult", "TrainingError", "TrainingStep", "load"]

_HOMES = {
    "ArtifactError": "artifact",
    "CompiledModel": "model",
    "StepResult": "training",
    "TrainingError": "training",
    "TrainingStep": "training",
    "load": "artifact",
}


def __getattr__(name: str) -> Any:
    """Names are looked up when they are used: what verifies a quote or a release must not wait for TVM to load."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
