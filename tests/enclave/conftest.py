"""Small artifacts and images, compiled and built once for the folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from privlib import models
from privlib.compiler import DPSGD, SGD, compile_inference, compile_training
from privlib.enclave.image import EnclaveImage, build_image
from privlib.enclave.signer import Signer


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer.generate()


@pytest.fixture(scope="session")
def inference_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return compile_inference(models.build("small_cnn"), 4).export(tmp_path_factory.mktemp("inference") / "artifact")


@pytest.fixture(scope="session")
def training_artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.manual_seed(0)
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=16)
    step = compile_training(models.build("small_cnn"), 8, optimizer=SGD(0.1, momentum=0.9), privacy=privacy)
    yield step.export(tmp_path_factory.mktemp("training") / "artifact")


@pytest.fixture(scope="session")
def image(inference_artifact: Path, signer: Signer) -> EnclaveImage:
    return build_image(inference_artifact, signer=signer, memory_bytes=1 << 30)


@pytest.fixture(scope="session")
def training_image(training_artifact: Path, signer: Signer) -> EnclaveImage:
    return build_image(training_artifact, signer=signer, memory_bytes=1 << 30, dataset_bytes=4 * 1000 * 3 * 32 * 32)
