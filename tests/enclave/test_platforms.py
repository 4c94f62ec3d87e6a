"""The conformance suite on each platform, and the table of platforms."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from privlib.enclave import register_platform
from privlib.enclave.errors import PlatformError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import launch
from privlib.enclave.platforms import Platform, base, platform_named
from privlib.enclave.platforms.gramine import GraminePlatform
from privlib.enclave.platforms.simulated import SimulatedPlatform
from privlib.enclave.signer import Signer
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.ginseng import lower
from privlib.ginseng.device import GinsengPlatform, TrainingUnsupportedError, build_device_image, simulated_root
from privlib.trusted import CompiledModel, load
from tests.enclave.conformance import PlatformConformance


@pytest.fixture(scope="module")
def outside(inference_artifact: Path) -> CompiledModel:
    loaded = load(inference_artifact)
    assert isinstance(loaded, CompiledModel)
    return loaded


class TestSimulated(PlatformConformance):
    @staticmethod
    def root() -> bytes:
        return SimulatedRoot.load_or_create().certificate

    @pytest.fixture
    def platform(self) -> Platform:
        return SimulatedPlatform()

    @pytest.fixture
    def model(self, outside: CompiledModel) -> CompiledModel:
        return outside


@pytest.mark.skipif(bool(GraminePlatform().missing()), reason=GraminePlatform().missing() or "")
class TestGramine(PlatformConformance):
    @pytest.fixture
    def platform(self, signer: Signer) -> Platform:
        return GraminePlatform(signer)

    @pytest.fixture
    def model(self, outside: CompiledModel) -> CompiledModel:
        return outside


class TestGinseng(PlatformConformance):
    """Identity and inference; training is refused."""

    refuses_training = TrainingUnsupportedError

    @staticmethod
    def root() -> bytes:
        return simulated_root().certificate

    @pytest.fixture
    def platform(self) -> Platform:
        return platform_named("ginseng")

    @pytest.fixture
    def model(self, quantised: "Quantised") -> "Quantised":
        return quantised

    @pytest.fixture
    def image(self, quantised: "Quantised", signer: Signer) -> EnclaveImage:
        return build_device_image(quantised.program, signer=signer)

    @pytest.fixture
    def other_image(self, signer: Signer) -> EnclaveImage:
        return build_device_image(Quantised(2).program, signer=signer)


class Quantised:
    """A small network, lowered for the accelerator, and what exact integer arithmetic makes of images."""

    input_shape = (3, 8, 8)

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
        images = np.random.default_rng(seed).standard_normal((16, *self.input_shape)).astype(np.float32)
        self.program = lower(nn.Sequential(*layers), images)

    def run(self, images: np.ndarray) -> np.ndarray:
        quantised = self.program.quantised
        assert quantised is not None
        return quantised.dequantise(quantised.reference(quantised.quantise_images(images)))


@pytest.fixture(scope="module")
def quantised() -> Quantised:
    return Quantised(1)


def test_the_enclave_package_imports_no_platform() -> None:
    code = (
        "import sys, privlib.enclave.launcher\n"
        "print([m for m in sys.modules if m.startswith(('privlib.ginseng', 'privlib.enclave.platforms.'))])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['privlib.enclave.platforms.base']"


def test_platforms_come_from_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"simulated", "gramine", "ginseng"} <= set(base._installed())
    assert isinstance(platform_named("ginseng"), GinsengPlatform)
    with pytest.raises(PlatformError, match=r"no platform 'sgx'; there are ginseng, gramine, simulated"):
        platform_named("sgx")
    with pytest.raises(PlatformError, match="'ginseng' already"):
        register_platform("ginseng", SimulatedPlatform)
    broken = EntryPoint("broken", "privlib.nowhere:Platform", base.GROUP)
    monkeypatch.setattr(base, "entry_points", lambda group: [broken])
    with pytest.raises(PlatformError, match="'broken' cannot be used here: No module named 'privlib.nowhere'"):
        platform_named("broken")
    monkeypatch.setattr(base, "entry_points", lambda group: [])
    monkeypatch.setattr(base, "_PLATFORMS", {})
    with pytest.raises(PlatformError, match="there are none: install privlib again"):
        platform_named("simulated")


def test_a_platform_can_be_added_by_name(image: EnclaveImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PLATFORMS", dict(base._PLATFORMS))

    class Named(SimulatedPlatform):
        name = "named"

    register_platform("named", Named)
    with launch(image, "named") as enclave:
        assert enclave.alive
    with pytest.raises(PlatformError, match="'named' already"):
        register_platform("named", Named)


def test_a_platform_that_this_host_lacks_says_what_is_missing(
    image: EnclaveImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PlatformError, match="'gramine' cannot be used here: gramine-sgx, .* not found; install Gramine"
    ):
        launch(image, "gramine")
    with pytest.raises(PlatformError, match="cannot be used here: .*not found"):
        launch(image, GraminePlatform())
    for program in ("gramine-sgx", "gramine-sgx-sign", "gramine-manifest"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setattr("privlib.enclave.platforms.gramine._DEVICE", tmp_path / "sgx_enclave")
    with pytest.raises(PlatformError, match="sgx_enclave does not exist: no SGX"):
        launch(image, "gramine")
