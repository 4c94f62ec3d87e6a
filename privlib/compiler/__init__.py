"""From a PyTorch model to native code, through TVM: import, canonicalize, fuse, differentiate, lower, plan, build.

`compile_inference(model, batch_size)` gives a CompiledModel, `compile_training(model, batch_size, …)` a TrainingStep;
`inference_stages` and `TrainingStep.ir(stage)` give the IR after each pass.
"""

from privlib.compiler.errors import CompileError, UnsupportedOperatorError, VerificationError
from privlib.compiler.inference import compile_inference, inference_stages
from privlib.compiler.options import DPSGD, SGD
from privlib.compiler.training import compile_training

__all__ = [
    "DPSGD",
    "SGD",
    "CompileError",
    "UnsupportedOperatorError",
    "VerificationError",
    "compile_inference",
    "compile_training",
    "inference_stages",
]
