"""Compiled code and artifacts in the cache, named by content, handed out only after a check."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from privlib.compiler import pipeline
from privlib.compiler.errors import CompileError
from privlib.compiler.target import Machine
from privlib.files import atomic_path, cache_dir
from privlib.trusted import artifact as format

Arrays = Sequence[tuple[str, np.ndarray]]


def build_library(planned: tvm.IRModule, cpu: Machine) -> tuple[Path, bool]:
    """Compile a planned module to a shared library in the cache; returns its path and whether it was built now."""
    path = cache_dir("libraries") / f"{_content_key(planned, cpu)}.so"
    if path.is_file():
        return path, False
    executable = pipeline.build(planned, cpu)
    with atomic_path(path) as temporary:
        executable.export_library(str(temporary))
    return path, True


def cached_artifact(library: Path, arrays: Arrays, facts: Mapping[str, object]) -> format.Artifact:
    """The artifact of this code, these arrays and facts, written to the cache if it is not there or is damaged."""
    path = cache_dir("artifacts") / _digest(library, arrays, facts)
    try:
        return format.read(path)
    except format.ArtifactError:
        shutil.rmtree(path, ignore_errors=True)
        format.write(path, library, arrays, facts)
        return format.read(path)


def verify_once(library: Path, artifact: format.Artifact, check: Callable[[], object]) -> None:
    """Run `check` unless this library has passed it before; where it raises CompileError, the cache forgets both.

    The mark is written after the check, so that a killed process leaves none.
    """
    verified = library.with_suffix(".verified")
    if verified.exists():
        return
    try:
        check()
    except CompileError:
        library.unlink(missing_ok=True)
        shutil.rmtree(artifact.path, ignore_errors=True)
        raise
    verified.touch()


def _content_key(module: tvm.IRModule, cpu: Machine) -> str:
    """Hash of all that decides the machine code: the printed module, its constants, the CPU level, TVM's version."""
    digest = hashlib.sha256(f"{tvm.__version__} {cpu}\n{module.script()}".encode())

    def add(node: object) -> None:
        data = getattr(node, "value", None)
        if isinstance(data, tvm.runtime.Tensor):
            digest.update(str(data.dtype).encode() + data.numpy().tobytes())

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, add)
    return digest.hexdigest()[:32]


def _digest(library: Path, arrays: Arrays, facts: Mapping[str, object]) -> str:
    digest = hashlib.sha256(library.read_bytes())
    digest.update(repr(sorted(facts.items())).encode())
    for name, array in arrays:
        digest.update(str((name, array.dtype, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]
