"""A compiled model on disk: a folder of manifest.json, library.so and parameters.bin, covered by SHA-256.

manifest.json   format, kind, level (psABI level the code needs), batch_size, input_shape, dtype, memory (bytes by
                name), parameters [{name, dtype, shape, offset}], files {name: {sha256, bytes}}; for inference
                output_shape; for training optimizer, privacy, roles (of parameters), strategies, clipping_margin
library.so      kernels and virtual-machine code
parameters.bin  packed parameters, raw little-endian, each at a multiple of 64 bytes
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.bounded_json import read_json
from privlib.trusted.private_file import PrivateFile

if TYPE_CHECKING:
    from privlib.trusted.model import CompiledModel
    from privlib.trusted.training import TrainingStep

FORMAT = 1
ALIGNMENT = 64
MAXIMUM = 2**48  # no extent or offset is larger
DTYPES = ("float32", "float64", "int8", "uint8", "int32", "uint32", "int64", "uint64")
MANIFEST, LIBRARY, PARAMETERS = "manifest.json", "library.so", "parameters.bin"


class ArtifactError(PrivlibError):
    """The folder is not an artifact, is damaged, or needs another version or another CPU."""


@dataclass(frozen=True)
class Artifact:
    """An artifact read and checked: its folder, its manifest with the SHA-256 of its file (which covers the others),
    its code (a private copy: what was checked is what is loaded), and its parameters (a private copy, mapped, in
    calling order)."""

    path: Path
    manifest: Mapping[str, Any]
    digest: str
    library: PrivateFile
    parameters: tuple[np.ndarray, ...]


def write(
    path: Path | str, library: Path | str, parameters: Sequence[tuple[str, np.ndarray]], facts: Mapping[str, Any]
) -> Path:
    """Write an artifact folder at `path`, whole or not at all; an artifact there is replaced, anything else is refused.

    facts: level, batch_size, input_shape, output_shape, dtype, memory, kind.
    """
    target = Path(path)
    if target.exists() and not _is_artifact(target):
        raise ArtifactError(f"{target} exists and is not an artifact; choose another path or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        shutil.copyfile(library, folder / LIBRARY)
        entries = _write_parameters(folder / PARAMETERS, parameters)
        files = {
            name: {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size}
            for name in (LIBRARY, PARAMETERS)
        }
        manifest = {"format": FORMAT, **facts, "parameters": entries, "files": files}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        folder.chmod(0o755)
        _replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def _is_artifact(folder: Path) -> bool:
    """Whether a folder holds an artifact and nothing else: what is replaced is deleted."""
    found = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return MANIFEST in found and found <= {MANIFEST, LIBRARY, PARAMETERS}


def _replace(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; an old folder there goes once the new one is in place, and stays if that fails."""
    old = folder.with_name(folder.name + ".old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(folder, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_parameters(path: Path, parameters: Sequence[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
    entries, offset = [], 0
    with open(path, "wb") as file:
        for name, array in parameters:
            data = np.ascontiguousarray(array)
            file.write(b"\0" * (-offset % ALIGNMENT))
            offset += -offset % ALIGNMENT
            entries.append({"name": name, "dtype": str(data.dtype), "shape": list(data.shape), "offset": offset})
            file.write(data.tobytes())
            offset += data.nbytes
    return entries


def read(path: Path | str, guarded: bool = False) -> Artifact:
    """Read and check an artifact: format, sizes and SHA-256 of every file, bounds of every parameter.

    guarded: the platform keeps the files from changing, so that no private copies are made.

    Raises ArtifactError naming the file and what is wrong with it.
    """
    folder = Path(path)
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = read_json(text)
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} is not an artifact: it has no {MANIFEST}; export one with CompiledModel.export(path)"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ArtifactError(f"{folder}: artifact format {found!r}, this version reads {FORMAT}; export the model again")
    try:
        library, packed = (_private(folder / name, manifest["files"][name], guarded) for name in (LIBRARY, PARAMETERS))
        parameters = _views(packed, manifest["parameters"])
        packed.close()
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST} is malformed ({error!r}); export the model again") from error
    return Artifact(folder, manifest, hashlib.sha256(text).hexdigest(), library, parameters)


def _private(path: Path, expected: Mapping[str, Any], guarded: bool) -> PrivateFile:
    """A private copy of `path`, checked against size and SHA-256."""
    if not path.is_file() or path.stat().st_size != expected["bytes"]:
        raise ArtifactError(f"{path} is missing or truncated; export the model again")
    try:
        copy = PrivateFile(path, guarded)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if copy.sha256 != expected["sha256"]:
        raise ArtifactError(f"{path} does not have the SHA-256 its manifest states; export the model again")
    return copy


def _views(file: PrivateFile, entries: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, ...]:
    """The parameters as views of the mapped file. Raises KeyError, TypeError or ValueError for entries that lie."""
    size, data = file.size, np.frombuffer(file.map(), np.uint8)
    views = []
    for entry in entries:
        name, dtype, offset = entry["name"], entry["dtype"], _natural(entry["offset"])
        shape = tuple(_natural(extent) for extent in entry["shape"])
        if dtype not in DTYPES:
            raise ValueError(f"parameter {name!r} has type {dtype!r}")
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        if offset % ALIGNMENT or end > size:
            raise ValueError(f"parameter {name!r} does not lie in the file")
        views.append(np.asarray(data[offset:end]).view(dtype).reshape(shape))
    return tuple(views)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAXIMUM:
        raise ValueError(f"{value!r} is not a size")
    return value


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(path: Path | str, guarded: bool = False) -> "CompiledModel | TrainingStep":
    """Load an exported artifact with the TVM runtime alone: a CompiledModel or a TrainingStep, by its kind.

    guarded: as in `read`.

    Raises ArtifactError for anything but an intact artifact whose code this CPU can run.
    """
    from privlib.trusted.model import CompiledModel
    from privlib.trusted.training import TrainingStep

    artifact = read(path, guarded)
    kind = artifact.manifest.get("kind")
    if kind not in ("inference", "training"):
        raise ArtifactError(f"{path}: artifact kind {kind!r} is not known to this version")
    _check_facts(Path(path), artifact.manifest)
    if kind == "inference":
        return CompiledModel(artifact)
    try:
        return TrainingStep(artifact)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{Path(path) / MANIFEST} is malformed ({error!r}); export the model again") from error


def _check_facts(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        shapes = [[_natural(extent) for extent in manifest["input_shape"]]]
        if manifest["kind"] == "inference":
            shapes.append([_natural(extent) for extent in manifest["output_shape"]])
        batch_size, activations = _natural(manifest["batch_size"]), _natural(manifest["memory"]["activation_bytes"])
        if not batch_size or batch_size * max(map(math.prod, shapes)) > MAXIMUM or activations > MAXIMUM:
            raise ValueError(f"batches of {batch_size} examples of {shapes[0]}")
        scale, shift = manifest["pixels"] if manifest.get("pixels") is not None else (1.0, 0.0)
        if not (math.isfinite(scale) and math.isfinite(shift)):
            raise ValueError(f"pixels {manifest['pixels']!r}")
        types = ("float32",) if manifest["kind"] == "inference" else ("float32", "float64")
        if manifest["dtype"] not in types or not isinstance(manifest["level"], str):
            raise ValueError(f"type {manifest['dtype']!r}, level {manifest['level']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST} is malformed ({error!r}); export the model again") from error
