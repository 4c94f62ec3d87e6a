"""A provider's encrypted file: read by who has key and context, and never half written."""

from pathlib import Path

import numpy as np
import pytest

from privlib.enclave.datasets import encrypt_dataset
from privlib.trusted.storage import DatasetError, DatasetFormatError, DatasetKeyError, DatasetReader

KEY, CONTEXT = bytes(range(32)), b"cifar10 / research only"


def test_an_array_comes_back_from_its_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    encrypt_dataset(tmp_path / "images", [images.data], KEY, CONTEXT, chunk_bytes=10_000)
    with open(tmp_path / "images", "rb", buffering=0) as file:
        found = DatasetReader(file, KEY, CONTEXT).read()
    assert (np.frombuffer(found, np.uint8).reshape(images.shape) == images).all()
    with open(tmp_path / "images", "rb") as file, pytest.raises(DatasetKeyError):
        DatasetReader(file, KEY, b"cifar10 / anything")


@pytest.mark.parametrize(
    ("key", "chunk_bytes", "error"), [(b"short", 1 << 20, DatasetKeyError), (KEY, 1, DatasetFormatError)]
)
def test_a_refused_dataset_leaves_the_file_before_it(
    key: bytes, chunk_bytes: int, error: type[DatasetError], tmp_path: Path
) -> None:
    path = tmp_path / "images"
    encrypt_dataset(path, [b"before"], KEY)
    before = path.read_bytes()
    with pytest.raises(error):
        encrypt_dataset(path, [b"after"], key, chunk_bytes=chunk_bytes)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["images"]
