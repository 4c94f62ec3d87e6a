"""Examples inside an enclave: the datasets of several providers, each where it was deciphered to, taken from as one."""

from collections.abc import Sequence

import numpy as np

from privlib.trusted.model import InputError
from privlib.trusted.protocol import Message, ProtocolError, decode
from privlib.trusted.training import TrainingStep

KIND = "dataset"


class Examples:
    """Parts, each images float32 (n, …) and labels int64 (n,), numbered one after the other."""

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(labels) for _, labels in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of examples int64 (B,)."""
        if len(self._parts) == 1:
            images, labels = self._parts[0]
            return images[indices], labels[indices]
        first_images, first_labels = self._parts[0]
        images = np.empty((len(indices), *first_images.shape[1:]), first_images.dtype)
        labels = np.empty(len(indices), first_labels.dtype)
        owner = np.searchsorted(self._ends, indices, side="right")
        for number, (part_images, part_labels) in enumerate(self._parts):
            mine = owner == number
            rows = indices[mine] - (self._ends[number] - len(part_labels))
            images[mine], labels[mine] = part_images[rows], part_labels[rows]
        return images, labels


def read_examples(plaintext: bytearray, step: TrainingStep) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (n, *input_shape), with K > 1 augmentations (n, K, *input_shape), and labels int64 (n,), as views
    of a deciphered dataset: a message of `privlib.trusted.protocol` with these two arrays.

    Raises InputError for anything else. It says nothing of the data beyond that.
    """
    shape = ((step.augmentations,) if step.augmentations > 1 else ()) + step.input_shape
    try:
        message = decode(plaintext)
    except ProtocolError:
        message = Message("")
    arrays = message.arrays
    if message.kind != KIND or message.fields or set(arrays) != {"images", "labels"}:
        raise InputError("the dataset holds no images and labels; write it with privlib.enclave.encrypt_examples")
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.float32 or images.shape[1:] != shape or labels.dtype != np.int64 or not len(images):
        raise InputError(f"a dataset has images float32 (n, {', '.join(map(str, shape))}), n ≥ 1, and labels int64")
    if labels.shape != (len(images),):
        raise InputError("there must be a label for every image")
    if step.num_classes is not None and not 0 <= labels.min() <= labels.max() < step.num_classes:
        raise InputError(f"labels must lie from 0 to {step.num_classes - 1}")
    return images, labels
