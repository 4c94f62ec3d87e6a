"""From a PyTorch model to native code, through TVM: import, canonicalize, fuse, lower, plan, build.

`compile_inference(model, batch_size)` gives a CompiledModel; `inference_stages` gives the IR after each pass.
"""

from privlib.compiler.errors import CompileError, UnsupportedOperatorError, VerificationError
from privlib.compiler.inference import compile_inference, inference_stages

__all__ = ["CompileError", "UnsupportedOperatorError", "VerificationError", "compile_inference", "inference_stages"]
