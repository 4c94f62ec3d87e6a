"""Artifacts on disk: whole or refused, whatever a host does to them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import privlib
from privlib import models
from privlib.compiler import compile_inference
from privlib.trusted import ArtifactError, CompiledModel, artifact, load

FILES = ("manifest.json", "library.so", "parameters.bin")


def load_model(folder: Path) -> CompiledModel:
    loaded = load(folder)
    assert isinstance(loaded, CompiledModel)
    return loaded


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    torch.manual_seed(0)
    return compile_inference(models.build("small_cnn"), 4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def folder(compiled: CompiledModel, tmp_path: Path) -> Path:
    return compiled.export(tmp_path / "model")


def test_export_and_load_give_the_same_bits(compiled: CompiledModel, folder: Path, images: np.ndarray) -> None:
    loaded = load_model(folder)
    np.testing.assert_array_equal(loaded.run(images), compiled.run(images))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert (loaded.batch_size, loaded.input_shape, loaded.output_shape) == (4, (3, 32, 32), (10,))
    assert loaded.memory == compiled.memory and loaded.memory.parameter_bytes >= 4 * 122_570


def test_an_export_of_a_loaded_model_is_the_same_artifact(folder: Path, tmp_path: Path) -> None:
    again = load(folder).export(tmp_path / "again")
    for name in FILES:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_parameters_are_mapped_read_only_and_aligned(folder: Path) -> None:
    for parameter in artifact.read(folder).parameters:
        assert not parameter.flags.writeable and parameter.ctypes.data % 64 == 0


ISOLATED = """
import sys
sys.path[:0] = sys.argv[1:2]
import numpy as np
from privlib.trusted import load
print(repr(load(sys.argv[2]).run(np.load(sys.argv[3])).tobytes().hex()))
maps = open("/proc/self/maps").read()
print("libtvm_runtime" in maps, "libtvm_compiler" in maps, "torch" in maps, "torch" in sys.modules)
print(any(name.startswith("privlib.compiler") for name in sys.modules))
"""


def test_the_runtime_alone_runs_it(compiled: CompiledModel, folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    """A process that can import NumPy, TVM and privlib only: no PyTorch, no TVM compiler in memory, the same bits."""
    site, packages = tmp_path / "site", Path(np.__file__).parents[1]
    site.mkdir()
    for name in ("numpy", "numpy.libs", "tvm", "tvm_ffi", "typing_extensions.py", "apache_tvm.libs"):
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    (site / "privlib").symlink_to(Path(privlib.__file__).parent)
    np.save(tmp_path / "images.npy", images)
    arguments = [sys.executable, "-I", "-S", "-c", ISOLATED, str(site), str(folder), str(tmp_path / "images.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logits, libraries, compiler = done.stdout.splitlines()
    assert logits == repr(compiled.run(images).tobytes().hex())
    assert libraries == "True False False False"
    assert compiler == "False"


CHILD = """
import sys
from privlib.trusted import load
load(sys.argv[1])
import tvm
print("libtvm_compiler" in open("/proc/self/maps").read(), hasattr(tvm, "compile"))
"""


def test_loading_keeps_neither_a_process_nor_its_children_from_compiling(folder: Path) -> None:
    """What keeps TVM's compiler out of a process without PyTorch is neither inherited nor kept where there is one."""
    load(folder)
    assert "TVM_USE_RUNTIME_LIB" not in os.environ
    environment = {**os.environ, "PYTHONPATH": str(Path(privlib.__file__).parents[1])}
    arguments = [sys.executable, "-c", CHILD, str(folder)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load(folder)


@pytest.mark.parametrize("where", ["start", "middle", "end"])
@pytest.mark.parametrize("name", ["library.so", "parameters.bin"])
def test_one_flipped_bit_is_noticed(folder: Path, name: str, where: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[{"start": 0, "middle": len(data) // 2, "end": -1}[where]] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name}.*SHA-256"):
        load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, name: str, keep: int) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.rstrip()[:keep])
    with pytest.raises(ArtifactError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["library.so", "parameters.bin"])
def test_a_longer_file_is_refused(folder: Path, name: str) -> None:
    with open(folder / name, "ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=name):
        load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_files_place_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ArtifactError, match=name):
        load(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_manifests_that_are_no_manifests_are_refused(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError):
        load(folder)


@pytest.mark.parametrize("number", [0, 2, 99, "1", None, [1], -1])
def test_another_format_is_refused(folder: Path, number: Any) -> None:
    change(folder, lambda manifest: manifest.update(format=number))
    with pytest.raises(ArtifactError, match="format"):
        load(folder)


@pytest.mark.parametrize("pixels", [[1.0], [1.0, "x"], [1.0, None], 3, "ab", [1e999, 0.0]])
def test_pixels_that_are_not_two_finite_numbers_are_refused(folder: Path, pixels: Any) -> None:
    change(folder, lambda manifest: manifest.update(pixels=pixels))
    with pytest.raises(ArtifactError, match="malformed"):
        load(folder)


def test_another_kind_is_refused(folder: Path) -> None:
    change(folder, lambda manifest: manifest.update(kind="oracle"))
    with pytest.raises(ArtifactError, match="'oracle'"):
        load(folder)


@pytest.mark.parametrize("level", ["x86-64-v9", "", "arm"])
def test_another_level_is_refused(folder: Path, level: str) -> None:
    change(folder, lambda manifest: manifest.update(level=level))
    with pytest.raises(ArtifactError, match="level|built for"):
        load(folder)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def parameter(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["parameters"][1].update({key: value})


def fact(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update({key: value})


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.pop(key)


FACTS: dict[str, tuple[Any, ...]] = {
    "batch_size": (0, -1, 2**60, 1.5, "4", None, True, [4]),
    "input_shape": ([-3, 32, 32], [2**30, 2**30], "abc", None, 3, [[3]], [3.0, 32, 32]),
    "output_shape": ([-1], [2**60], None, ["10"]),
    "memory": ({}, {"activation_bytes": -1}, {"activation_bytes": "x"}, [], None),
    "parameters": (None, 3, {"a": 1}, ["x"], [None], [[]]),
    "files": (None, [], {"library.so": None}, {"library.so": []}),
    "dtype": ("float64", "object", None, 3),
    "level": (3, None),
}
PARAMETER: dict[str, tuple[Any, ...]] = {
    "offset": (-64, -1, 1, 4, 2**40, 2**62, 2**80, 64.0, "64", None, True, [64]),
    "shape": (
        [-1],
        [2**40],
        [2**32] * 2,
        [2**62, 4],
        [0, 2**70],
        [1.5],
        "12",
        3,
        None,
        [None],
        [[2]],
        [True],
        {"a": 1},
    ),
    "dtype": ("object", "O", "float128", "V8", "", None, 3, "<U9", ["float32"], {"x": 1}, "float32,float32"),
}
HOSTILE = {
    **{f"no {key}": without(key) for key in (*FACTS, "kind")},
    **{f"{key} {value!r}": fact(key, value) for key, values in FACTS.items() for value in values},
    **{f"parameter {key} {v!r}": parameter(key, v) for key, values in PARAMETER.items() for v in values},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_lies_in_a_manifest_are_refused(folder: Path, name: str) -> None:
    """Typed, before anything large is allocated or anything is read outside the file."""
    change(folder, HOSTILE[name])
    with pytest.raises(ArtifactError):
        load(folder)


@pytest.mark.parametrize("shape", [[3, 32, 31], [1, 32, 32], [3, 64, 64], [3072]])
def test_code_does_not_run_on_shapes_it_was_not_built_for(folder: Path, shape: list[int]) -> None:
    """The manifest is consistent and the input fits it, but the code is for another shape."""
    change(folder, lambda manifest: manifest.update(input_shape=shape))
    with pytest.raises(ArtifactError, match="does not fit its manifest"):
        load_model(folder).run(np.zeros((4, *shape), np.float32))


@pytest.mark.parametrize("shape", [[1], [9], [11], [2, 5]])
def test_an_output_of_another_shape_is_refused(folder: Path, shape: list[int]) -> None:
    change(folder, lambda manifest: manifest.update(output_shape=shape))
    with pytest.raises(ArtifactError, match="gives"):
        load_model(folder).run(np.zeros((4, 3, 32, 32), np.float32))


def test_parameters_of_another_shape_are_refused_by_the_code(folder: Path) -> None:
    change(folder, lambda manifest: manifest["parameters"].reverse())
    with pytest.raises(ArtifactError, match="does not fit its manifest"):
        load_model(folder).run(np.zeros((4, 3, 32, 32), np.float32))


def test_a_path_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError):
        load(tmp_path / "file")


def test_an_export_replaces_an_artifact(compiled: CompiledModel, folder: Path, images: np.ndarray) -> None:
    other = compile_inference(nn.Linear(5, 3), 2, (5,))
    other.export(folder)
    assert load_model(folder).output_shape == (3,)
    load(folder).export(folder)  # onto itself
    assert load_model(folder).output_shape == (3,)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("what", ["file", "folder", "web page", "artifact and more"])
def test_nothing_but_an_artifact_is_replaced(compiled: CompiledModel, tmp_path: Path, what: str) -> None:
    """A folder of one's own may well hold a manifest.json; replacing it would delete the rest."""
    target = tmp_path / "mine"
    if what == "file":
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "precious.txt").write_text("precious")
    if what == "web page":
        (target / "manifest.json").write_text("{}")
    if what == "artifact and more":
        compiled.export(tmp_path / "model")
        shutil.copytree(tmp_path / "model", target, dirs_exist_ok=True)
    with pytest.raises(ArtifactError, match="is not an artifact"):
        compiled.export(target)
    assert (target if what == "file" else target / "precious.txt").read_text() == "precious"


@pytest.mark.parametrize("step", ["copyfile", "_write_parameters", "_sha256", "replace"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_export_leaves_everything_as_it_was(
    compiled: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    target = tmp_path / "out" / "model"
    target.parent.mkdir()
    if existing:
        compile_inference(nn.Linear(5, 3), 2, (5,)).export(target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    replaced = os.replace

    def fails_for_the_new_one(source: Path, destination: Path) -> None:
        if destination == target and not str(source).endswith(".old"):
            fails()
        replaced(source, destination)

    owner, name = {"copyfile": (shutil, step), "replace": (os, step)}.get(step, (artifact, step))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(owner, name, fails_for_the_new_one if step == "replace" else fails)
        compiled.export(target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in target.parent.iterdir()] == (["model"] if existing else [])


def test_threads_may_share_a_model(compiled: CompiledModel, images: np.ndarray) -> None:
    from concurrent.futures import ThreadPoolExecutor

    inputs = [images + np.float32(i) for i in range(4)]
    expected = [compiled.run(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for found, right in zip(pool.map(compiled.run, inputs), expected, strict=True):
                np.testing.assert_array_equal(found, right)
