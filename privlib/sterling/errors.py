"""What the data market refuses on purpose."""

from privlib.errors import PrivlibError


class SterlingError(PrivlibError):
    """Base class of the market's refusals."""


class PolicyError(SterlingError):
    """A policy, or a request to check a program, that makes no sense; the message names the number and its range."""


class JobError(SterlingError):
    """A job that is not in the state that this step needs; the message names both."""


class JobRefused(SterlingError):
    """A provider's check refuses a job: its program, quote, terms or budget; the message says which and why."""


class CredentialRefused(SterlingError):
    """A credential that does not hold, or is not presented by whom it was issued to."""


class PolicyRefused(SterlingError):
    """A provider's policy says no; the message holds the policy's own reason."""


class NotFinal(SterlingError):
    """Not final on the chain, or nobody trustworthy says so: wait, and ask again."""


class PolicyStateError(SterlingError):
    """Base: a confidential contract's state that is not the one the chain knows."""


class StateRolledBack(PolicyStateError):
    """An older state than the chain's, or one that it never had: bring the newest."""


class StateForked(PolicyStateError):
    """The chain went on with another successor of the committed state."""


class AlreadyGranted(PolicyStateError):
    """The job has had its key, for one enclave; there is no second one."""


class StorageError(SterlingError):
    """Storage does not have what was stored, or gives something else."""


class OutputError(SterlingError):
    """A job's output that is not what was signed for, or does not open."""
