"""A compiled training step: accumulates clipped gradient sums over physical batches, then updates once, with noise.

The parameters lie in one vector, tensor after tensor; the code reads them where they lie. Sums stay in native memory,
on the noise's integer grid (float64 where there is no noise), until an update has added the noise to them.
"""

import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted import artifact as format
from privlib.trusted.artifact import Artifact, ArtifactError
from privlib.trusted.model import InputError
from privlib.trusted.pages import NewMemory
from privlib.trusted.runtime import aligned_empty, as_tensor, load_code, tvm_runtime, virtual_machine

ROW = 16  # elements; every tensor begins at a multiple of it in the flat vector


class TrainingError(PrivlibError):
    """The training step was used in a way that would break its guarantee or its state."""


@dataclass(frozen=True)
class StepResult:
    """step: updates made so far; examples: how many counted; mean_loss: over them (NaN where there were none).

    examples and mean_loss are computed from single examples without noise: they are for eyes that may see the data.
    """

    step: int
    examples: int
    mean_loss: float


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes: activations and gradients (planned, with sharing), kernels' scratch of all cores (the largest kernel's),
    parameters, and the optimizer's state (sums and momentum)."""

    activation_bytes: int
    scratch_bytes: int
    parameter_bytes: int
    state_bytes: int

    @property
    def peak_bytes(self) -> int:
        return self.activation_bytes + self.scratch_bytes + self.parameter_bytes + self.state_bytes


def flat_offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each tensor begins in the flat vector, and the vector's size."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ROW) * ROW
    return offsets, end


class TrainingStep:
    """A training artifact, loaded. Made by `privlib.compiler.compile_training` and `privlib.trusted.load`."""

    def __init__(self, artifact: Artifact) -> None:
        self._memory_used = NewMemory()
        self._artifact, facts = artifact, artifact.manifest
        self.batch_size, self.level = int(facts["batch_size"]), str(facts["level"])
        self.input_shape = tuple(int(extent) for extent in facts["input_shape"])
        self.dtype, self.num_classes = str(facts["dtype"]), facts["num_classes"]
        self.privacy: Mapping[str, Any] | None = facts["privacy"]
        self.optimizer: Mapping[str, Any] = facts["optimizer"]
        self.augmentations = int(self.privacy["augmentations"]) if self.privacy else 1
        self.strategies: dict[str, str] = dict(facts["strategies"])
        self.clipping_margin = float(facts["clipping_margin"])
        self._lock = threading.Lock()
        self._runtime = tvm_runtime()
        code = load_code(artifact.library.path, self.level)
        self._accumulate = virtual_machine(code)["main"]
        self._update = code.get_function("update", query_imports=True)
        self._lay_out(facts)
        self._key: bytes | None = None
        self._test_keys = True
        self._steps = 0
        self._losses: list[np.ndarray] = []

    def _lay_out(self, facts: Mapping[str, Any]) -> None:
        """Memory of parameters, momentum and sums, and the code's views of it."""
        named = {
            entry["name"]: value for entry, value in zip(facts["parameters"], self._artifact.parameters, strict=True)
        }
        self._roles: dict[str, str] = dict(facts["roles"])
        if set(self._roles) != set(named):
            raise ArtifactError(f"{self._artifact.path}: roles and parameters differ; export the model again")
        trainable = [name for name in named if self._roles[name] == "trainable"]
        offsets, size = flat_offsets([named[name].size for name in trainable])
        self._flat = _aligned(size, self.dtype)
        self._arrays: dict[str, np.ndarray] = {}
        for name, value in named.items():
            if name in trainable:
                start = offsets[trainable.index(name)]
                self._arrays[name] = self._flat[start : start + value.size].reshape(value.shape)
            else:
                self._arrays[name] = _aligned(value.size, str(value.dtype)).reshape(value.shape)
            self._arrays[name][...] = value
        private = self.privacy is not None and self.privacy["noise_multiplier"] > 0
        self._sums = _aligned(size, "int64" if private else "float64")
        self._momentum = _aligned(size, self.dtype) if self.optimizer["momentum"] else None
        self._rejected = _aligned(1, "int64")
        self._trainable = dict(zip(trainable, offsets, strict=True))
        view = self._runtime.from_dlpack
        self._parameter_views = [view(array) for name, array in self._arrays.items() if self._roles[name] != "unused"]
        self._flat_view, self._sums_view, self._rejected_view = view(self._flat), view(self._sums), view(self._rejected)
        self._momentum_view = None if self._momentum is None else view(self._momentum)
        memory = facts["memory"]
        state = self._sums.nbytes + (0 if self._momentum is None else self._momentum.nbytes)
        parameters = self._flat.nbytes + sum(
            a.nbytes for name, a in self._arrays.items() if name not in self._trainable
        )
        self.memory = TrainingMemory(int(memory["activation_bytes"]), int(memory["scratch_bytes"]), parameters, state)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The artifact's manifest (see `privlib.trusted.artifact`)."""
        return self._artifact.manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the artifact's manifest, hexadecimal, which covers its code and its first parameters."""
        return self._artifact.digest

    @property
    def steps(self) -> int:
        """Updates made so far."""
        return self._steps

    @property
    def coordinates(self) -> int:
        """How many numbers are trained."""
        return sum(self._arrays[name].size for name in self._trainable)

    @property
    def private(self) -> bool:
        """Whether releases are private: noise is on, and its key came from the operating system."""
        return self.privacy is not None and self.privacy["noise_multiplier"] > 0 and self._key is None

    def use_test_key(self, key: bytes) -> None:
        """Make the noise repeatable: 32 bytes in place of the operating system's randomness. For tests alone; from
        here on the run is marked not private."""
        if not self._test_keys:
            raise TrainingError("inside an enclave the noise has no test key: what is released must be private")
        if len(key) != 32:
            raise TrainingError(f"a key has 32 bytes, got {len(key)}")
        self._key = key

    def refuse_test_keys(self) -> None:
        """From here on `use_test_key` raises TrainingError; what runs in an enclave calls this first. A key set before
        goes: the noise is the operating system's."""
        self._test_keys, self._key = False, None

    def accumulate(self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Add the clipped gradients of a batch to the sums.

        images float32 (B, *input_shape), with K > 1 augmentations (B, K, *input_shape); labels int64 (B,); mask bool
        (B,): False rows count for nothing. B may be anything: it is cut into physical batches of batch_size, the last
        one padded with rows that count for nothing. Raises InputError before anything is added.
        """
        with self._lock:
            for piece in self._pieces(images, labels, mask):
                losses, counted = self._run(*piece)
                self._losses.append(losses[counted])

    def update(self, learning_rate: float | None = None) -> StepResult:
        """Add the noise once, divide by the expected batch size, take the optimizer's step; the sums begin anew.

        Plain SGD divides by the number of examples accumulated, as a mean loss does. An update without examples is
        still a release: noise alone. Raises TrainingError for a learning rate that is negative or not finite, or for a
        plain update without examples.
        """
        rate = float(self.optimizer["learning_rate"] if learning_rate is None else learning_rate)
        if not 0 <= rate < math.inf:
            raise TrainingError(f"learning_rate must be finite and not negative, got {rate}")
        with self._lock:
            losses = np.concatenate([np.empty(0), *self._losses])
            count = len(losses)
            if self.privacy is None and not count:
                raise TrainingError("there are no examples to average over; accumulate a batch first")
            scalars = np.array([rate, 0.0 if self._steps else 1.0, count])
            arguments = [self._runtime.tensor(scalars)]
            if self._sums.dtype == np.int64:
                arguments += [self._runtime.tensor(array) for array in self._noise_stream()]
            arguments.append(self._sums_view)
            if self._momentum_view is not None:
                arguments.append(self._momentum_view)
            self._update(*arguments, self._flat_view)
            self._rejected[:] = 0
            self._steps += 1
            self._losses.clear()
        return StepResult(self._steps, count, float(losses.mean()) if count else math.nan)

    def _noise_stream(self) -> tuple[np.ndarray, np.ndarray]:
        """Key uint32 (8,) and nonce uint32 (3,): a fresh key for every update, or the test key and the step."""
        nonce = np.array([0, self._steps & 0xFFFFFFFF, self._steps >> 32], "uint32")
        return np.frombuffer(self._key or os.urandom(32), "<u4").astype("uint32"), nonce

    def step(
        self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None, learning_rate: float | None = None
    ) -> StepResult:
        """accumulate, then update."""
        self.accumulate(images, labels, mask)
        return self.update(learning_rate)

    def clipped_gradient_sum(
        self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The sum over the batch that noise would be added to, float64, by parameter name. Not private: for
        verification alone. Sums accumulated before stay as they were."""
        with self._lock:
            before, rejected = self._sums.copy(), self._rejected.copy()
            self._sums[:] = 0
            try:
                for piece in self._pieces(images, labels, mask):
                    self._run(*piece)
                step = float(self.privacy["grid_step"]) if self.privacy and self._sums.dtype == np.int64 else 1.0
                return {
                    name: (self._sums[start : start + self._arrays[name].size] * step).reshape(self._arrays[name].shape)
                    for name, start in self._trainable.items()
                }
            finally:
                self._sums[:], self._rejected[:] = before, rejected

    def per_example_norms(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """L2 norms (B,) of the examples' gradients before clipping. Not private: for verification alone."""
        if self.privacy is None:
            raise TrainingError("a plain step takes no per-example norms; compile it with privacy=DPSGD(…)")
        nobody = np.zeros(len(labels), bool)
        with self._lock:
            found = []
            for piece in self._pieces(images, labels, nobody):
                squares = self._call(*piece)[1]
                found.append(np.sqrt(squares[: len(piece[3])]))
            return np.concatenate(found) if found else np.empty(0, self.dtype)

    def mean_loss(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The mean loss over a batch (NaN where it is empty); nothing is accumulated. Not private."""
        nobody = np.zeros(len(labels), bool)
        with self._lock:
            pieces = self._pieces(images, labels, nobody)
            found = np.concatenate([self._run(*piece)[0] for piece in pieces]) if pieces else np.empty(0)
        return float(found.mean()) if len(found) else math.nan

    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers, named and shaped as in `model.state_dict()`."""
        return {name: a.copy() for name, a in self._arrays.items() if self._roles[name] != "constant"}

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Take over values for all of `parameters()` (NumPy arrays or PyTorch tensors). Momentum begins anew.

        Raises InputError for a name that is missing or unknown, or a shape or type that differs; then nothing changes.
        """
        current = {name: a for name, a in self._arrays.items() if self._roles[name] != "constant"}
        if set(parameters) != set(current):
            different = ", ".join(sorted(set(parameters) ^ set(current)))
            raise InputError(f"parameters missing or unknown: {different}; give all that parameters() returns")
        given = {name: np.asarray(value) for name, value in parameters.items()}
        for name, value in given.items():
            if value.shape != current[name].shape or not np.can_cast(value.dtype, current[name].dtype, "same_kind"):
                raise InputError(
                    f"{name}: expected {current[name].dtype} {current[name].shape}, got {value.dtype} {value.shape}"
                )
        with self._lock:
            for name, value in given.items():
                current[name][...] = value
            if self._momentum is not None:
                self._momentum[:] = 0

    def momentum(self) -> dict[str, np.ndarray]:
        """Copies of the optimizer's momentum, by parameter name; empty without momentum."""
        if self._momentum is None:
            return {}
        return {
            name: self._momentum[start : start + self._arrays[name].size].reshape(self._arrays[name].shape).copy()
            for name, start in self._trainable.items()
        }

    def resume(self, parameters: Mapping[str, Any], momentum: Mapping[str, Any], steps: int) -> None:
        """Go on where `parameters()`, `momentum()` and `steps` were taken; what was accumulated since is dropped.

        Raises InputError, and changes nothing, for names or shapes that differ.
        """
        own = self.momentum()
        given = {name: np.asarray(value) for name, value in momentum.items()}
        if {name: value.shape for name, value in given.items()} != {name: value.shape for name, value in own.items()}:
            raise InputError("the momentum is that of another optimizer or model; give all that momentum() returned")
        self.load_parameters(parameters)
        with self._lock:
            for name, value in given.items():
                start = self._trainable[name]
                assert self._momentum is not None
                self._momentum[start : start + value.size] = value.reshape(-1)
            self._sums[:], self._rejected[:] = 0, 0
            self._losses.clear()
            self._steps = steps

    def export(self, path: Path | str) -> Path:
        """Write code and current parameters to the folder `path` (whole or not at all), for `privlib.trusted.load` in
        any process; returns the folder. Momentum and sums stay behind."""
        facts = {key: value for key, value in self.manifest.items() if key not in ("format", "parameters", "files")}
        return format.write(path, self._artifact.library.path, list(self._arrays.items()), facts)

    def _pieces(
        self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Physical batches: (images, labels of every view, mask as numbers, mask of the rows that were given)."""
        views = (self.augmentations,) if self.augmentations > 1 else ()
        shape = (*views, *self.input_shape)
        if (
            not isinstance(images, np.ndarray)
            or images.shape[1:] != shape
            or images.dtype not in ("float32", self.dtype)
        ):
            found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise InputError(f"expected images as NumPy float32 (B, {', '.join(map(str, shape))}), got {found}")
        if not isinstance(labels, np.ndarray) or labels.shape != (len(images),) or labels.dtype != np.int64:
            found = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise InputError(f"expected labels as NumPy int64 ({len(images)},), got {found}")
        if self.num_classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise InputError(f"labels must lie in 0 … {self.num_classes - 1}; found {labels.min()} … {labels.max()}")
        keep = np.ones(len(images), bool) if mask is None else np.asarray(mask)
        if keep.shape != (len(images),) or keep.dtype != bool:
            raise InputError(f"expected mask as NumPy bool ({len(images)},), got {keep.dtype} {keep.shape}")
        pieces = []
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            missing = self.batch_size - len(keep[rows])
            padded = [np.pad(a[rows], [(0, missing)] + [(0, 0)] * (a.ndim - 1)) if missing else a[rows]
                      for a in (images, labels, keep)]  # fmt: skip
            flat = np.ascontiguousarray(padded[0], self.dtype).reshape(-1, *self.input_shape)
            pieces.append((flat, np.repeat(padded[1], self.augmentations), padded[2].astype(self.dtype), keep[rows]))
        return pieces

    def _run(
        self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray, given: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses (rows given,) and which of them count."""
        losses = self._call(images, labels, mask, given)[0]
        return losses.reshape(self.batch_size, -1).mean(1)[: len(given)], given

    def _call(self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray, _given: np.ndarray) -> list[np.ndarray]:
        inputs = [as_tensor(images), self._runtime.tensor(labels), self._runtime.tensor(mask)]
        try:
            results = self._accumulate(*inputs, *self._parameter_views, self._rejected_view, self._sums_view)
        except (TypeError, ValueError) as error:  # TVM's checks of argument types and shapes
            raise ArtifactError(f"{self._artifact.path}: the code does not fit its manifest: {error}") from error
        self._memory_used.use_huge_pages()
        return [results[i].numpy() for i in range(len(results) - 2)]


def _aligned(size: int, dtype: str) -> np.ndarray:
    """Zeros at an address that the code may assume to be aligned."""
    array = aligned_empty((size,), dtype)
    array[:] = 0
    return array
