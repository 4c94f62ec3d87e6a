"""What every platform must do, whatever it is made of: one suite, run against each."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from privlib.enclave.errors import EnclaveDied, ImageError, RequestRefused
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import launch
from privlib.enclave.platforms import Platform
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import DebugError, FreshnessError, MeasurementError
from privlib.enclave.release import verify_release
from privlib.enclave.signer import Signature
from privlib.enclave.state import StateStore
from privlib.enclave.verify import verify_quote
from privlib.errors import PrivlibError
from privlib.trusted.platform import IDENTITY
from privlib.trusted.protocol import Message
from privlib.trusted.terms import Terms
from tests.enclave.providers import Provider, request


class Model(Protocol):
    """What an image computes."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    def run(self, images: np.ndarray) -> np.ndarray: ...


class PlatformConformance:
    """Subclass it with fixtures `platform`, `image` (an inference image it can start), `other_image` (another one;
    `training_image` unless it refuses to train) and `model` (what `image` computes, outside). root: gives the
    certificate that its quotes hang from; None where it has no quotes. refuses_training: the error by which a platform
    that does not train says so."""

    root: Callable[[], bytes] | None = None
    refuses_training: type[PrivlibError] | None = None

    @pytest.fixture
    def platform(self) -> Platform:
        raise NotImplementedError

    @pytest.fixture
    def other_image(self, training_image: EnclaveImage) -> EnclaveImage:
        return training_image

    @pytest.fixture
    def model(self) -> Model:
        raise NotImplementedError

    def test_it_is_known_by_its_name_and_can_be_used(self, platform: Platform) -> None:
        assert platform.name and platform.missing() == ""

    def test_it_serves_what_the_artifact_computes(self, platform: Platform, image: EnclaveImage, model: Model) -> None:
        x = np.random.default_rng(1).standard_normal((5, *model.input_shape)).astype(np.float32)
        with launch(image, platform) as enclave:
            assert enclave.alive and enclave.report.platform == platform.name and enclave.report.seconds > 0
            np.testing.assert_array_equal(enclave.connect(None).infer(x), model.run(x))
        assert not enclave.alive

    def test_it_attests(self, platform: Platform, image: EnclaveImage, other_image: EnclaveImage) -> None:
        if self.root is None:
            pytest.skip("nothing attests here: stand-ins have no hardware behind them")
        nonce = secrets.token_bytes(32)
        with launch(image, platform) as enclave:
            policy = QuotePolicy(measurements=frozenset({enclave.measurement}), root=self.root())
            fresh = policy.fresh(b"", nonce, IDENTITY)
            verdict = verify_quote(enclave.quote(nonce), fresh, enclave.collateral)
            signature = image.signature
            assert (verdict.signer, verdict.product_id, verdict.svn) == (
                signature.mr_signer,
                signature.product_id,
                signature.svn,
            )
            with pytest.raises(FreshnessError):
                verify_quote(enclave.quote(bytes(32)), fresh, enclave.collateral)
            with enclave.connect(policy) as session:
                assert session.verdict is not None and session.verdict.measurement == enclave.measurement
        with launch(other_image, platform) as enclave, pytest.raises(MeasurementError):
            enclave.connect(policy)
        with launch(image, platform, debug=True) as enclave, pytest.raises(DebugError):
            enclave.connect(policy)

    def test_it_trains_under_its_providers_terms_or_says_that_it_does_not(
        self, platform: Platform, training_image: EnclaveImage, state: StateStore, tmp_path: Path
    ) -> None:
        if self.refuses_training is not None:
            with pytest.raises(self.refuses_training, match="not claimed"):
                launch(training_image, platform, state=state)
            return
        if self.root is None:
            pytest.skip("nothing attests here: stand-ins have no hardware behind them")
        provider = Provider(tmp_path / "data", 9, Terms(1e6))
        with launch(training_image, platform, state=state) as enclave:
            policy = QuotePolicy(measurements=frozenset({enclave.measurement}), root=self.root())
            with enclave.connect(policy) as session:
                assert provider.release_to(session) == 9
                release = session.train(request(provider))
                assert session.status()["updates"] == 2
            assert verify_release(release.encode(), policy).updates == 2
            assert all(np.isfinite(value).all() for value in release.parameters.values())

    def test_it_measures(self, platform: Platform, image: EnclaveImage, other_image: EnclaveImage) -> None:
        measured = []
        for each in (image, image, other_image):
            with launch(each, platform) as enclave:
                measured.append(enclave.measurement)
        assert len(measured[0]) == 32 and measured[0] == measured[1] != measured[2]

    def test_enclaves_do_not_share_anything(self, platform: Platform, other_image: EnclaveImage) -> None:
        with launch(other_image, platform) as one, launch(other_image, platform) as other:
            assert one.connect(None).status()["served"] == 0
            assert (one.connect(None).status()["served"], other.connect(None).status()["served"]) == (1, 0)
            one.close()
            assert other.alive and other.connect(None).status()["served"] == 1

    def test_a_refused_request_leaves_it_serving(self, platform: Platform, image: EnclaveImage) -> None:
        with launch(image, platform) as enclave:
            session = enclave.connect(None)
            with pytest.raises(RequestRefused, match="no request"):
                session.request(Message("nonsense"))
            assert session.status()["served"] == 0

    def test_its_end_is_an_error_of_its_own(self, platform: Platform, image: EnclaveImage) -> None:
        with launch(image, platform) as enclave:
            session = enclave.connect(None)
            enclave.close()
            enclave.close()
            with pytest.raises(EnclaveDied):
                session.status()

    def test_an_image_that_nobody_signed_never_starts(self, platform: Platform, image: EnclaveImage) -> None:
        signature = Signature(image.signature.modulus, 1, 1, bytes(384))
        with pytest.raises(ImageError, match="not its signer's"):
            launch(EnclaveImage(image.files, signature), platform)
