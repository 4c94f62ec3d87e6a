"""CIFAR-10's official binary layout: the one form in which content from any source is verified.

A record is 3073 bytes: the label, then 1024 red, 1024 green and 1024 blue bytes, each row by row. A file is 10,000
records. Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the data set's page.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privlib.data.errors import CorruptData

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of the labels 0–9, in the order of the official `batches.meta.txt`."""

IMAGES_PER_FILE = 10_000
PIXELS = 32 * 32
RECORD_BYTES = 1 + 3 * PIXELS
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
"""Of the six files as the data set's author publishes them: pixels, labels and their order."""

Bytes = NDArray[np.uint8]


def to_records(images: Bytes, labels: Bytes) -> Bytes:
    """Images uint8 (N,32,32,3) and labels uint8 (N,) as records uint8 (N,3073)."""
    channels_first = images.transpose(0, 3, 1, 2).reshape(len(images), 3 * PIXELS)
    return np.concatenate([labels[:, None], channels_first], axis=1)


def from_records(records: Bytes) -> tuple[Bytes, Bytes]:
    """Records uint8 (N,3073) as images uint8 (N,32,32,3), contiguous, and labels uint8 (N,)."""
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.ascontiguousarray(records[:, 0])


def digest(parts: Sequence[Bytes]) -> str:
    """SHA-256, in hex, over records in the official layout: the same whatever source they came from."""
    total = hashlib.sha256()
    for records in parts:
        total.update(np.ascontiguousarray(records).data)
    return total.hexdigest()


def verify(files: Mapping[str, Bytes], origin: str, remedy: str = "fetch it again") -> None:
    """Raise `CorruptData` unless `files` are the six of CIFAR-10, bit for bit; the message names origin and remedy."""
    for name, expected in MD5.items():
        if name not in files:
            raise CorruptData(f"{origin} has no {name}: it is incomplete or not CIFAR-10; {remedy}")
        found = hashlib.md5(np.ascontiguousarray(files[name]).data, usedforsecurity=False).hexdigest()
        if found != expected:
            raise CorruptData(
                f"{name} from {origin} is damaged or not CIFAR-10 (MD5 {found}, expected {expected}); {remedy}"
            )
