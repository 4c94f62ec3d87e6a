"""A compiled model: runs batches of any size through code compiled for one batch size."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted import artifact as format
from privlib.trusted.artifact import Artifact, ArtifactError
from privlib.trusted.pages import NewMemory
from privlib.trusted.runtime import load_code, tvm_runtime, virtual_machine


class InputError(PrivlibError, ValueError):
    """An input of the wrong shape or type."""


@dataclass(frozen=True)
class Memory:
    """Bytes: planned storage of activations (peak, with sharing), and packed parameters."""

    activation_bytes: int
    parameter_bytes: int

    @property
    def peak_bytes(self) -> int:
        return self.activation_bytes + self.parameter_bytes


class CompiledModel:
    """An inference artifact, loaded. Made by `privlib.compiler.compile_inference` and `privlib.trusted.load`."""

    def __init__(self, artifact: Artifact) -> None:
        self._memory_used = NewMemory()
        self._artifact = artifact
        facts = artifact.manifest
        self.batch_size = int(facts["batch_size"])
        self.input_shape = tuple(int(extent) for extent in facts["input_shape"])
        self.output_shape = tuple(int(extent) for extent in facts["output_shape"])
        self.dtype, self.level = str(facts["dtype"]), str(facts["level"])
        self.pixels: tuple[float, float] | None = None
        if facts.get("pixels") is not None:
            scale, shift = facts["pixels"]
            self.pixels = float(scale), float(shift)
        self.memory = Memory(int(facts["memory"]["activation_bytes"]), sum(p.nbytes for p in artifact.parameters))
        runtime = tvm_runtime()
        self._main = virtual_machine(load_code(artifact.library.path, self.level))["main"]
        self._lock = threading.Lock()  # the virtual machine and the input's memory serve one call at a time
        self._parameters = [runtime.tensor(parameter) for parameter in artifact.parameters]
        self._input = runtime.empty((self.batch_size, *self.input_shape), self.dtype)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The artifact's manifest (see `privlib.trusted.artifact`)."""
        return self._artifact.manifest

    def run(self, x: np.ndarray) -> np.ndarray:
        """Logits of a batch: x float32 (B, *input_shape) with any B ≥ 0 → float32 (B, *output_shape). A model compiled
        with `pixels` = (scale, shift) takes uint8 as well, as x · scale + shift: a quarter of the bytes on their way.

        Batches are cut into pieces of `batch_size`; the last piece is padded with zeros and the padding's outputs are
        dropped. Raises InputError for another shape or type.
        """
        types = (self.dtype,) if self.pixels is None else (self.dtype, "uint8")
        if not isinstance(x, np.ndarray) or x.shape[1:] != self.input_shape or str(x.dtype) not in types:
            found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            shape = ", ".join(map(str, self.input_shape))
            raise InputError(f"expected a NumPy array {' or '.join(types)} (B, {shape}), got {found}")
        result = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), self.batch_size):
            piece = x[start : start + self.batch_size]
            if self.pixels is not None and piece.dtype == np.uint8:
                piece = np.multiply(piece, np.float32(self.pixels[0]), dtype=np.float32)
                piece += np.float32(self.pixels[1])
            if len(piece) < self.batch_size:
                padded = np.zeros((self.batch_size, *self.input_shape), self.dtype)
                padded[: len(piece)] = piece
                result[start:] = self._run_whole(padded)[: len(piece)]
            else:
                result[start : start + self.batch_size] = self._run_whole(piece)
        return result

    def _run_whole(self, x: np.ndarray) -> np.ndarray:
        with self._lock:
            self._input.copyfrom(np.ascontiguousarray(x))
            try:
                result: np.ndarray = self._main(self._input, *self._parameters).numpy()
            except (RuntimeError, TypeError, ValueError) as error:  # TVM's checks of argument types and shapes
                raise ArtifactError(f"{self._artifact.path}: the code does not fit its manifest: {error}") from error
            self._memory_used.use_huge_pages()
        if result.shape != (self.batch_size, *self.output_shape):
            raise ArtifactError(f"{self._artifact.path}: the code gives {result.shape}, not what its manifest states")
        return result

    def export(self, path: Path | str) -> Path:
        """Write the artifact to the folder `path` (whole or not at all), for `privlib.trusted.load` in any process;
        returns the folder."""
        facts = {key: value for key, value in self.manifest.items() if key not in ("format", "parameters", "files")}
        names = [entry["name"] for entry in self.manifest["parameters"]]
        library = self._artifact.library.path
        return format.write(path, library, list(zip(names, self._artifact.parameters, strict=True)), facts)
