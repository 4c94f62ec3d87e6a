"""Make the sample that ships with privlib: the first 50 images of each class of either split, in their order.

python tools/make_cifar10_sample.py        (fetches CIFAR-10 when it is not cached)
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from privlib.data import CLASSES, DataError, load_cifar10
from privlib.data.layout import PIXELS, digest, to_records
from privlib.data.sample import SAMPLE

PER_CLASS = 50
FOLDER = Path(__file__).resolve().parent.parent / "privlib" / "data" / SAMPLE


def main() -> None:
    """Write `train.png`, `test.png` and `manifest.json`."""
    FOLDER.mkdir(exist_ok=True)
    manifest = {}
    for split in ("train", "test"):
        data = load_cifar10(split)
        if data.source == SAMPLE:
            raise DataError("the sample is made from the whole of CIFAR-10, which could not be fetched")
        chosen = np.sort(np.concatenate([np.flatnonzero(data.labels == label)[:PER_CLASS] for label in range(10)]))
        images, labels = data.images[chosen], data.labels[chosen]
        Image.fromarray(images.reshape(len(chosen), PIXELS, 3)).save(FOLDER / f"{split}.png", optimize=True)
        manifest[split] = {
            "source": f"CIFAR-10 {split} split, the first {PER_CLASS} images of each class",
            "classes": CLASSES,
            "sha256": digest([to_records(images, labels)]),
            "indices": chosen.tolist(),
            "labels": labels.tolist(),
        }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
