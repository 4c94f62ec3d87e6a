"""Small artifacts and images, compiled and built once for the folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from privlib import models
from privlib.compiler import DPSGD, SGD, compile_inference, compile_training
from privlib.enclave.image import EnclaveImage, build_image
from privlib.enclave.launcher import launch
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.release import Release
from privlib.enclave.signer import Signer
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.state import StateStore
from privlib.trusted.terms import Terms
from tests.enclave.providers import Provider, request


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
    return build_image(training_artifact, signer=signer, memory_bytes=1 << 30, dataset_bytes=5 * 1000 * 3 * 32 * 32)


@pytest.fixture(scope="session")
def root() -> SimulatedRoot:
    """The installation's, which launches use where nothing else is said."""
    return SimulatedRoot.load_or_create()


@pytest.fixture(scope="session")
def policy(image: EnclaveImage, root: SimulatedRoot) -> QuotePolicy:
    return QuotePolicy(measurements=frozenset({image.measurement}), root=root.certificate)


@pytest.fixture(scope="session")
def training_policy(training_image: EnclaveImage, root: SimulatedRoot) -> QuotePolicy:
    return QuotePolicy(measurements=frozenset({training_image.measurement}), root=root.certificate)


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    """One with 100 examples and no limit."""
    return Provider(tmp_path_factory.mktemp("provider") / "data", 100, Terms(None))


@pytest.fixture(scope="session")
def other_provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    """Another one, with 60 others."""
    return Provider(tmp_path_factory.mktemp("provider") / "data", 60, Terms(None), seed=1)


@pytest.fixture(scope="session")
def issued(
    training_image: EnclaveImage, training_policy: QuotePolicy, tmp_path_factory: pytest.TempPathFactory
) -> Release:
    """A release of two epochs on one provider's data."""
    folder = tmp_path_factory.mktemp("release")
    provider = Provider(folder / "data", 60, Terms(8.0))
    with launch(training_image, state=StateStore(folder / "state")) as enclave:
        session = enclave.connect(training_policy)
        provider.release_to(session)
        session.train(request(provider, steps=1))
        return session.train(request(provider, steps=2))
