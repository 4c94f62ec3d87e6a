"""What can go wrong around an enclave, each with its own type."""

from privlib.errors import PrivlibError


class EnclaveError(PrivlibError):
    """Base of the errors of privlib.enclave."""


class ImageError(EnclaveError):
    """An image cannot be built, or a file differs from what its manifest states."""


class LaunchError(EnclaveError):
    """An enclave did not start; the text says at which step and why."""


class LaunchTimeout(LaunchError):
    """A worker that was started says nothing."""


class MechanismError(LaunchError):
    """A protection that was asked for is not available on this host."""


class PlatformError(EnclaveError):
    """No such platform, or not on this host."""


class EnclaveDied(EnclaveError):
    """The enclave ended without being asked to; the text says how."""


class RequestRefused(EnclaveError):
    """The enclave refused a request and goes on.

    type: name of the error inside, e.g. "InputError".
    """

    def __init__(self, type: str, text: str) -> None:
        super().__init__(f"{type}: {text}")
        self.type = type
