"""What runs inside an enclave, and nothing else: it needs Python, NumPy, cryptography and the TVM runtime, never
PyTorch or a compiler."""

from privlib.trusted.artifact import ArtifactError, load
from privlib.trusted.model import CompiledModel
from privlib.trusted.training import StepResult, TrainingError, TrainingStep

__all__ = ["ArtifactError", "CompiledModel", "StepResult", "TrainingError", "TrainingStep", "load"]
