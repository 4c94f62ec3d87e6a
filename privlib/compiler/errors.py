"""What can go wrong between a PyTorch model and native code."""

from privlib.errors import PrivlibError


class CompileError(PrivlibError):
    """The model cannot be compiled as asked; the message names the cause and the remedy."""


class UnsupportedOperatorError(CompileError):
    """The model uses an operator that no pass handles; the message names it and its place in the model."""


class VerificationError(CompileError):
    """The compiled code disagrees with eager PyTorch on the batch it was checked with; it is not handed out."""
