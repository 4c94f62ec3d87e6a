"""The small real sample that ships with the package: the first 50 training and 50 test images of each class.

Two PNG sprites in the form of the npm package (a row is an image) and a manifest with labels and digests, made by
`tools/make_cifar10_sample.py`. Whatever is computed from it says `cifar10-sample`.
"""

import json
from functools import cache
from importlib import resources

import numpy as np

from privlib.data.errors import CorruptData
from privlib.data.layout import Bytes, digest, to_records
from privlib.data.sources import parse_sprite

SAMPLE = "cifar10-sample"


@cache
def sample(split: str) -> tuple[Bytes, Bytes, str]:
    """Images uint8 (500,32,32,3), labels uint8 (500,), both read-only, and the digest of the split."""
    folder = resources.files("privlib.data").joinpath(SAMPLE)
    described = json.loads(folder.joinpath("manifest.json").read_text(encoding="utf-8"))[split]
    labels = np.array(described["labels"], np.uint8)
    images = parse_sprite(folder.joinpath(f"{split}.png").read_bytes(), len(labels), f"{SAMPLE}/{split}.png")
    found = digest([to_records(images, labels)])
    if found != described["sha256"]:
        raise CorruptData(f"{SAMPLE}/{split}.png in the installed package is damaged: install privlib again")
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels, found
