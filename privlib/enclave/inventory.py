"""Every file that runs inside an enclave beside the artifact: which, under which name, as which bytes.

What a worker loads is found out by loading it (`survey`). Names do not say where a file lies on this machine:

loader.py            the script that is run
app/ site/ python/   modules: of privlib, of other packages, of the standard library
system/              shared libraries of the system
host/                what Python itself loads from the host's files before the image is unpacked
"""

import functools
import hashlib
import importlib.util
import json
import marshal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import privlib
from privlib.enclave import survey
from privlib.enclave.errors import ImageError
from privlib.trusted import loader

HOST = "host"
SURVEY = [sys.executable, "-I", "-S", "-B"]
LOADER = "loader.py"
# A sourceless module: magic number, flags "checked by nobody", no hash (PEP 552). Marshal format 2 writes no
# references, whose presence depends on the compiler's memory.
_PYC_HEAD = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
_MARSHAL_FORMAT = 2


@dataclass(frozen=True)
class File:
    """A file of an image. name: in the image; path: where it lies here; data: its bytes where they are made (bytecode,
    configuration), else None and they are the file's; size in bytes and sha256 (hexadecimal) of what runs; source:
    SHA-256 of the source it was compiled from, or ""; lines: of that source."""

    name: str
    path: Path | None
    data: bytes | None
    size: int
    sha256: str
    source: str = ""
    lines: int = 0

    def read(self) -> bytes:
        """The bytes. Raises ImageError where the file on disk is no longer what was measured."""
        data = self.data if self.data is not None else _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ImageError(f"{self.path} is no longer what the image was built from; build the image again")
        return data


def made(name: str, data: bytes, source: bytes | None = None, path: Path | None = None) -> File:
    """A file whose bytes are kept."""
    origin, lines = ("", 0) if source is None else (hashlib.sha256(source).hexdigest(), source.count(b"\n"))
    return File(name, path, data, len(data), hashlib.sha256(data).hexdigest(), origin, lines)


def runtime_files(application: Path = Path(privlib.__file__).parents[1], kind: str = "worker") -> list[File]:
    """Every file beside artifact and configuration. application: the folder that holds the package privlib; kind: what
    is to serve, of `survey.ALLOWED`.

    Raises ImageError where the worker cannot be loaded, e.g. because it imports what does not belong into an enclave.
    """
    roots = package_roots(kind)
    found = run_survey([*roots, application], kind)
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    own = (application / "privlib", "app/privlib")
    folders = [own, *((root, "site") for root in roots), (standard, loader.PYTHON)]
    files = [_host_file(Path(path)) for path in found["bootstrap"]]
    files += [_module(name, Path(path), folders) for name, path in found["modules"]]
    files += [_library(Path(path), folders) for path in found["libraries"]]
    script = (application / "privlib" / "trusted" / "loader.py").read_bytes()
    files.append(made(LOADER, script, script))
    return sorted(files, key=lambda file: file.name)


def run_survey(roots: list[Path], kind: str = "worker") -> dict[str, list[Any]]:
    """What `survey` prints for packages in `roots`."""
    command = [*SURVEY, survey.__file__, kind, *map(str, roots)]
    done = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"})
    if done.returncode:
        raise ImageError(f"the worker cannot be loaded by a bare Python:\n{done.stderr.strip()}")
    report: dict[str, list[Any]] = json.loads(done.stdout)
    return report


def package_roots(kind: str = "worker") -> list[Path]:
    """Folders that hold the packages a worker may import, privlib aside. Raises ImageError where one is missing."""
    roots = []
    for name in survey.ALLOWED[kind]:
        specification = importlib.util.find_spec(name)
        if specification is None or specification.origin is None:
            raise ImageError(f"{name} is not installed; it runs inside an enclave")
        origin = Path(specification.origin)
        roots.append(origin.parents[1] if origin.name == "__init__.py" else origin.parent)
    return list(dict.fromkeys(roots[:-1]))


def _module(name: str, path: Path, folders: list[tuple[Path, str]]) -> File:
    inside = _place(path, folders)
    if inside is None:
        raise ImageError(f"module {name} lies in {path}, outside of what an enclave may import")
    if path.suffix != ".py":
        return _on_disk(inside, path)
    source = _read(path)
    return made(inside + "c", _compiled(inside, source), source, path)


def _library(path: Path, folders: list[tuple[Path, str]]) -> File:
    return _on_disk(_place(path, folders) or f"{loader.SYSTEM}/{path.name}", path)


def _host_file(path: Path) -> File:
    if path.suffix != ".py":
        return _on_disk(f"{HOST}/{path.name}", path)
    source = _read(path)
    digest = hashlib.sha256(source).hexdigest()
    return File(f"{HOST}/{path.parent.name}/{path.name}", path, None, len(source), digest, digest, source.count(b"\n"))


def _place(path: Path, folders: list[tuple[Path, str]]) -> str | None:
    for folder, name in folders:
        for candidate in (path, path.resolve()):
            if candidate.is_relative_to(folder):
                return f"{name}/{candidate.relative_to(folder)}"
    return None


def _on_disk(name: str, path: Path) -> File:
    data = _read(path)
    return File(name, path, None, len(data), hashlib.sha256(data).hexdigest())


def _read(path: Path | None) -> bytes:
    assert path is not None, "a file without a path has its bytes"
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error


@functools.cache
def _compiled(name: str, source: bytes) -> bytes:
    """Bytecode that says nothing of this machine."""
    code = compile(source, f"<image>/{name}", "exec", dont_inherit=True, optimize=0)
    return _PYC_HEAD + marshal.dumps(code, _MARSHAL_FORMAT)
