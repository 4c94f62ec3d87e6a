"""An enclave's image: every byte that runs inside, listed, measured and signed.

The manifest is a text with a line for each file; MRENCLAVE is its SHA-256, so `sha256sum` on the saved manifest checks
a measurement and `diff` on two of them says what differs. It holds no path of this machine: the same sources, packages
and artifact give the same measurement wherever they lie.
"""

import contextlib
import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privlib.enclave.errors import ImageError
from privlib.enclave.inventory import HOST, File, made, runtime_files
from privlib.enclave.signer import Signature, Signer
from privlib.enclave.tcb import Tcb
from privlib.trusted import artifact as format
from privlib.trusted.bounded_json import read_json
from privlib.trusted.model import CompiledModel
from privlib.trusted.serving import CONFIGURATION
from privlib.trusted.training import TrainingStep
from privlib.trusted.worker import ARTIFACT

_HEAD = "privlib enclave image 1"


@dataclass(frozen=True)
class EnclaveImage:
    """What `launch` loads: files in the order of their names, and the signer's word for their measurement."""

    files: tuple[File, ...]
    signature: Signature

    @property
    def manifest(self) -> str:
        """The measured text: a head, then for each file SHA-256, bytes, SHA-256 of the source or -, name."""
        rows = [f"{file.sha256} {file.size} {file.source or '-'} {file.name}" for file in self.files]
        return "\n".join([_HEAD, f"Python {platform.python_version()} {platform.machine()}", *rows, ""])

    @property
    def measurement(self) -> bytes:
        """MRENCLAVE, 32 bytes: SHA-256 of the manifest."""
        return hashlib.sha256(self.manifest.encode()).digest()

    @property
    def configuration(self) -> dict[str, Any]:
        """memory_bytes: what the worker may take once it serves; dataset_bytes: of examples at most."""
        found: dict[str, Any] = read_json(self.file(CONFIGURATION).read())
        return found

    @property
    def tcb(self) -> Tcb:
        """The trusted computing base, by component."""
        return Tcb.of(self.files)

    @property
    def unpacked(self) -> tuple[File, ...]:
        """The files that are unpacked for the worker; the others Python loads from the host's."""
        return tuple(file for file in self.files if not file.name.startswith(f"{HOST}/"))

    def file(self, name: str) -> File:
        """The file of this name. Raises ImageError."""
        for file in self.files:
            if file.name == name:
                return file
        raise ImageError(f"the image has no file {name}")


def build_image(
    artifact: Path | str | CompiledModel | TrainingStep,
    *,
    signer: Signer | None = None,
    product_id: int = 1,
    svn: int = 1,
    memory_bytes: int = 4 << 30,
    dataset_bytes: int = 2 << 30,
) -> EnclaveImage:
    """The image that serves `artifact` (a folder, or a loaded model or training step), signed.

    signer: None for this user's own key in the cache. memory_bytes: address space the worker may take beyond what it
    has when it is closed in; dataset_bytes: of training examples inside. Both are measured. Raises ArtifactError,
    ImageError.
    """
    configuration = {"memory_bytes": memory_bytes, "dataset_bytes": dataset_bytes}
    if not all(type(value) is int and 0 < value < 1 << 48 for value in configuration.values()):
        raise ImageError(f"memory_bytes and dataset_bytes must be whole numbers of bytes, got {configuration}")
    with _folder(artifact) as folder:
        format.read(folder)
        names = (format.MANIFEST, format.LIBRARY, format.PARAMETERS)
        files = [made(f"{ARTIFACT}/{name}", (folder / name).read_bytes()) for name in names]
    files.append(made(CONFIGURATION, json.dumps(configuration, sort_keys=True).encode() + b"\n"))
    return sign([*files, *runtime_files()], signer or Signer.of_this_user(), product_id, svn)


def sign(files: list[File], signer: Signer, product_id: int, svn: int) -> EnclaveImage:
    """An image of these files. Raises ImageError for a name that comes twice."""
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        raise ImageError(f"two files have one name: {sorted(name for name in names if names.count(name) > 1)}")
    ordered = tuple(sorted(files, key=lambda file: file.name))
    unsigned = EnclaveImage(ordered, Signature(b"", 0, 0, b""))
    return EnclaveImage(ordered, signer.sign(unsigned.measurement, product_id, svn))


@contextlib.contextmanager
def _folder(artifact: Path | str | CompiledModel | TrainingStep) -> Iterator[Path]:
    if isinstance(artifact, Path | str):
        yield Path(artifact)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield artifact.export(Path(temporary) / "artifact")
