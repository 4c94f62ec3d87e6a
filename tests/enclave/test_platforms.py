"""The conformance suite on each platform, and the table of platforms."""

from pathlib import Path

import pytest

from privlib.enclave import register_platform
from privlib.enclave.errors import PlatformError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import launch
from privlib.enclave.platforms import Platform, base
from privlib.enclave.platforms.gramine import GraminePlatform
from privlib.enclave.platforms.simulated import SimulatedPlatform
from privlib.enclave.signer import Signer
from privlib.enclave.simulated_root import SimulatedRoot
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
