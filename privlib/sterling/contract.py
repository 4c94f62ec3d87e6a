"""A training contract: a model and how it is to be trained, in one file that anybody builds to the same measurement.

The model goes as a `torch.export` program (`model_file`), so that a provider who rebuilds it runs operators, no Python
of the consumer's. Rebuilding gives the program that `verify_program` checks and the image that the quote must name;
both come from this project's compiler, which is trusted to compile what was checked, and is deterministic.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import tvm

from privlib.compiler import DPSGD, SGD, compile_training
from privlib.compiler.training import CompiledTraining
from privlib.enclave.image import EnclaveImage, build_image
from privlib.errors import PrivlibError
from privlib.sterling.contracts.budget import curve_words
from privlib.sterling.errors import JobRefused
from privlib.sterling.model_file import read_model, write_model
from privlib.sterling.verify import program_digest, training_program
from privlib.trusted.appraisal import appraisal_event, feature_count
from privlib.trusted.epoch import TrainRequest
from privlib.trusted.events import Event
from privlib.trusted.protocol import Message, decode, encode
from privlib.trusted.sampling import PoissonSampler
from privlib.trusted.sensitivity import effective_noise_multiplier

MAXIMUM_BYTES = 1 << 30
_FIELDS = {"batch_size", "input_shape", "optimizer", "privacy", "steps", "sample_rate", "physical_batches",
           "appraisal_noise", "memory_bytes", "dataset_bytes"}  # fmt: skip


@dataclass(frozen=True)
class TrainingContract:
    """model: a `torch.export` file; batch_size, input_shape, optimizer, privacy: as in `compile_training`; steps,
    sample_rate, physical_batches: as in `TrainRequest`; appraisal_noise: noise multiplier of the statistics that a
    bonus is split by, 0 for none; memory_bytes, dataset_bytes: of the enclave, as in `build_image`."""

    model: bytes = field(repr=False)
    batch_size: int
    input_shape: tuple[int, ...]
    optimizer: SGD
    privacy: DPSGD
    steps: int
    sample_rate: float
    physical_batches: int
    appraisal_noise: float = 0.0
    memory_bytes: int = 1 << 30
    dataset_bytes: int = 256 << 20

    @classmethod
    def of(
        cls, model: torch.nn.Module, batch_size: int, input_shape: Sequence[int], **options: Any
    ) -> "TrainingContract":
        """From a PyTorch model in evaluation mode; options: the other fields. Raises JobRefused where torch.export
        refuses."""
        return cls(write_model(model, input_shape), batch_size, tuple(input_shape), **options)

    def encode(self) -> bytes:
        """The contract's file."""
        fields = {name: value for name, value in asdict(self).items() if name != "model"}
        fields["input_shape"] = list(self.input_shape)
        return b"".join(encode(Message("contract", fields, {"model": np.frombuffer(self.model, np.uint8)})))

    @classmethod
    def decode(cls, data: bytes) -> "TrainingContract":
        """From a file that nobody vouches for. Raises JobRefused."""
        try:
            if len(data) > MAXIMUM_BYTES:
                raise ValueError(f"{len(data)} bytes")
            message = decode(data)
            fields = dict(message.fields)
            if message.kind != "contract" or set(fields) != _FIELDS or set(message.arrays) != {"model"}:
                raise ValueError("other parts than a contract's")
            fields |= {"optimizer": SGD(**fields["optimizer"]), "privacy": DPSGD(**fields["privacy"])}
            fields["input_shape"] = tuple(fields["input_shape"])
            contract = cls(message.arrays["model"].tobytes(), **fields)
            contract.request(("00" * 32,))
        except (PrivlibError, KeyError, TypeError, ValueError) as error:
            raise JobRefused(f"no training contract: {error}") from None
        return contract

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.encode()).hexdigest()

    def request(self, datasets: Sequence[str]) -> TrainRequest:
        """What the enclave is to do on datasets (digests). Raises TrainingError."""
        return TrainRequest(tuple(datasets), self.steps, self.sample_rate, self.physical_batches)

    def build(self) -> "BuiltContract":
        """Compile it, as the consumer, every provider and the executor do. Raises JobRefused."""
        return _built(self)


@dataclass(frozen=True)
class BuiltContract:
    """A contract, compiled: the program to verify, the image to launch, the step that says what it costs."""

    contract: TrainingContract
    step: CompiledTraining = field(repr=False)
    program: tvm.IRModule = field(repr=False)
    image: EnclaveImage = field(repr=False)

    @property
    def measurement(self) -> bytes:
        """MRENCLAVE, 32 bytes."""
        return self.image.measurement

    @cached_property
    def program_digest(self) -> bytes:
        """Of the program, 32 bytes."""
        return bytes.fromhex(program_digest(self.program))

    def events(self, rows: int) -> list[Event]:
        """What each dataset is charged for, where all of them together have `rows` examples."""
        asked = self.contract
        sampler = PoissonSampler(rows, asked.sample_rate, asked.batch_size, asked.physical_batches)
        found = [sampler.event(effective_noise_multiplier(self.step), asked.steps)]
        if asked.appraisal_noise:
            found.append(appraisal_event(asked.appraisal_noise, feature_count(asked.input_shape)))
        return found

    def curve(self, rows: int) -> tuple[int, ...]:
        """The same as the chain's Rényi curve, rounded up: four words."""
        return curve_words(self.events(rows))


@lru_cache(maxsize=4)
def _built(contract: TrainingContract) -> BuiltContract:
    model = read_model(contract.model)
    step = compile_training(
        model,
        contract.batch_size,
        input_shape=contract.input_shape,
        optimizer=contract.optimizer,
        privacy=contract.privacy,
    )
    image = build_image(step, memory_bytes=contract.memory_bytes, dataset_bytes=contract.dataset_bytes)
    return BuiltContract(contract, step, training_program(step), image)
