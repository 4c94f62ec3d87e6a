"""Private copies: what was hashed is what is used."""

import gc
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from privlib.compiler import compile_inference
from privlib.trusted import CompiledModel, artifact, load
from privlib.trusted.private_file import PrivateFile


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two artifacts of one shape that compute different things: x·A and 2·x·A."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("artifacts")
    layer = nn.Linear(5, 3)

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = layer(x + x)
            return found

    one = compile_inference(layer, 2, (5,)).export(folder / "one")
    doubled = Doubled()
    doubled.layer = layer
    return one, compile_inference(doubled, 2, (5,)).export(folder / "two")


def test_a_copy_holds_what_the_file_held(tmp_path: Path) -> None:
    for data in (b"", b"x", bytes(range(256)) * 9000):
        (tmp_path / "file").write_bytes(data)
        copy = PrivateFile(tmp_path / "file")
        assert (copy.size, copy.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert bytes(copy.map()) == data
        with open(copy.path, "rb") as opened:
            assert opened.read() == data


def test_nobody_can_change_a_copy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"measured")
    copy = PrivateFile(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"swapped!")
    for change in (
        lambda: os.write(os.open(copy.path, os.O_RDWR), b"x"),
        lambda: os.truncate(copy.path, 3),
        lambda: os.truncate(copy.path, 300),
    ):
        with pytest.raises(PermissionError):
            change()
    assert bytes(copy.map()) == b"measured"


def test_what_is_mapped_outlives_the_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"measured")
    before = len(os.listdir("/proc/self/fd"))
    copy = PrivateFile(tmp_path / "file")
    data = copy.map()
    copy.close()
    copy.close()
    assert bytes(data) == b"measured"
    del data  # a mapping of Python's keeps a descriptor of its own
    assert len(os.listdir("/proc/self/fd")) == before
    PrivateFile(tmp_path / "file")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_guarded_file_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"measured")
    found = PrivateFile(tmp_path / "file", guarded=True)
    assert found.path == str(tmp_path / "file") and bytes(found.map()) == b"measured"
    assert found.sha256 == hashlib.sha256(b"measured").hexdigest()


def test_a_swap_between_check_and_load_has_no_effect(exported: tuple[Path, Path], tmp_path: Path) -> None:
    """Code and parameters are those that were checked, though the files are others by the time they are used."""
    one, two = exported
    x = np.ones((2, 5), np.float32)
    expected, other = load(one).run(x), load(two).run(x)  # type: ignore[union-attr]  # inference artifacts
    assert not np.allclose(expected, other)
    shutil.copytree(one, tmp_path / "artifact")
    read = artifact.read(tmp_path / "artifact")
    for name in ("library.so", "parameters.bin"):
        with open(tmp_path / "artifact" / name, "r+b") as file:  # in place: the same inode
            file.write((two / name).read_bytes())
    np.testing.assert_array_equal(CompiledModel(read).run(x), expected)
    exported_again = CompiledModel(read).export(tmp_path / "again")
    for name in ("library.so", "parameters.bin"):
        assert (exported_again / name).read_bytes() == (one / name).read_bytes()


def test_a_number_of_a_descriptor_that_comes_back_brings_no_old_code(exported: tuple[Path, Path]) -> None:
    """The dynamic linker remembers libraries by path; /proc/self/fd/N names another file after each close."""
    one, two = exported
    x = np.ones((2, 5), np.float32)
    expected = {path: load(path).run(x) for path in exported}  # type: ignore[union-attr]  # inference artifacts
    for path in (one, two, one, two):
        model = load(path)
        assert isinstance(model, CompiledModel)
        np.testing.assert_array_equal(model.run(x), expected[path])
        del model
        gc.collect()
