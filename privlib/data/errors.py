"""What can go wrong with data: each message gives the path or address and the remedy."""

from privlib.errors import PrivlibError


class DataError(PrivlibError):
    """Data are missing, incomplete or not what they claim to be."""


class SourceUnavailable(DataError):
    """A source cannot be reached or is not usable on this machine; the next one may be."""


class CorruptData(DataError):
    """Content arrived but is not CIFAR-10: cut, changed, or of another shape."""
