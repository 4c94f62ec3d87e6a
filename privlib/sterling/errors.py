"""What the data market refuses on purpose."""

from privlib.errors import PrivlibError


class SterlingError(PrivlibError):
    """Base class of the market's refusals."""


class PolicyError(SterlingError):
    """A policy, or a request to check a program, that makes no sense; the message names the number and its range."""
