"""What Ginseng refuses, and why; every class is a `PrivlibError`."""

from privlib.errors import PrivlibError


class GinsengError(PrivlibError):
    """Base of the accelerator's errors."""


class IsaError(GinsengError):
    """An instruction or micro-op that the 128-bit (32-bit) layout cannot hold, or bits that are no instruction."""


class LoweringError(GinsengError):
    """A network or tile that does not fit the accelerator."""


class ExecutionError(GinsengError):
    """An instruction stream that cannot run: an address outside a buffer, or engines waiting on each other for ever."""


class ProtectionError(GinsengError):
    """A request that a protection mode cannot serve (a partly written block, a used-up version, an unknown mode)."""


class IntegrityError(GinsengError):
    """What came back from DRAM is not what was last written there: nothing computed from it may leave the chip."""
