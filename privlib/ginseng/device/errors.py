"""What a device refuses, and why."""

from privlib.enclave.errors import LaunchError
from privlib.ginseng.errors import GinsengError


class DeviceError(GinsengError):
    """Base of the device's errors."""


class PackageError(DeviceError):
    """A program package that is none: malformed, or parts of it do not fit each other."""


class BootError(DeviceError, LaunchError):
    """An image that this device does not boot: for another bitstream, monitor or firmware, or no accelerator image."""


class TrainingUnsupportedError(DeviceError, LaunchError):
    """Training on the accelerator is not claimed; images that train, and datasets, belong on another platform."""


class MonitorRefusal(DeviceError):
    """The monitor does not serve a call; the text names the guard that failed."""


class ModelMissingError(DeviceError):
    """The model's key has not been delivered to this device yet."""


class HaltedError(DeviceError):
    """The device found its memory altered, destroyed its enclave and does nothing more; launch it again."""
