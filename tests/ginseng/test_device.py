"""The device from outside: an encrypted model and encrypted images in, encrypted logits out, and what is refused."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from privlib.enclave import launch
from privlib.enclave.errors import ImageError, LaunchError, RequestRefused
from privlib.enclave.inventory import made
from privlib.enclave.launcher import Enclave
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import EvidenceError, MeasurementError
from privlib.enclave.signer import Signer
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.state import StateStore
from privlib.ginseng import lower
from privlib.ginseng.device import DeviceImage, GinsengPlatform, build_device_image, provision_model
from privlib.ginseng.device.errors import BootError, PackageError
from privlib.ginseng.device.platform import GinsengProcess
from privlib.ginseng.int8 import QuantisedModel
from privlib.ginseng.vta.program import VtaProgram
from privlib.trusted.protocol import Buffer, Message, Stream
from privlib.trusted.sealing import RollbackError

KEY = bytes(range(32))
SHAPE = (3, 8, 8)


def images(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def program() -> VtaProgram:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
    return lower(nn.Sequential(*layers), images(16))


@pytest.fixture(scope="module")
def quantised(program: VtaProgram) -> QuantisedModel:
    assert program.quantised is not None
    return program.quantised


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.generate()


@pytest.fixture(scope="module")
def image(program: VtaProgram, signer: Signer) -> DeviceImage:
    return build_device_image(program, model_key=KEY, signer=signer)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> GinsengPlatform:
    return GinsengPlatform(tmp_path_factory.mktemp("fuses"))


@pytest.fixture(scope="module")
def policy(image: DeviceImage, platform: GinsengPlatform) -> QuotePolicy:
    return QuotePolicy(measurements=frozenset({image.measurement}), root=platform.root.certificate)


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


@pytest.fixture
def device(image: DeviceImage, platform: GinsengPlatform, state: StateStore) -> Iterator[Enclave]:
    with launch(image, platform, state=state) as running:
        yield running


@pytest.fixture
def ready(device: Enclave, image: DeviceImage, policy: QuotePolicy) -> Enclave:
    with device.connect(policy) as session:
        provision_model(session, KEY, image, policy, device.collateral)
    return device


def expected(quantised: QuantisedModel, x: np.ndarray) -> np.ndarray:
    return quantised.dequantise(quantised.reference(quantised.quantise_images(x)))


def dram(device: Enclave) -> "memoryview":
    process = device.process
    assert isinstance(process, GinsengProcess) and process.dram is not None
    return memoryview(process.dram)


def test_an_encrypted_model_gives_encrypted_logits_to_the_bit(
    ready: Enclave, policy: QuotePolicy, quantised: QuantisedModel
) -> None:
    with ready.connect(policy) as session:
        for count in (1, 5):
            np.testing.assert_array_equal(session.infer(images(count)), expected(quantised, images(count)))
        assert session.infer(images(0)).shape == (0, 10)
        assert session.status()["model"] is True


def test_before_its_key_has_come_it_computes_nothing(device: Enclave, policy: QuotePolicy) -> None:
    with device.connect(policy) as session:
        assert session.status()["model"] is False
        with pytest.raises(RequestRefused, match="ModelMissingError.*provision_model"):
            session.infer(images(1))


def test_a_key_goes_to_the_device_that_was_meant_and_opens_this_model_alone(
    device: Enclave, image: DeviceImage, policy: QuotePolicy, program: VtaProgram, quantised: QuantisedModel
) -> None:
    with device.connect(policy) as session:
        other = dataclasses.replace(policy, measurements=frozenset({bytes(32)}))
        with pytest.raises(MeasurementError):
            provision_model(session, KEY, image, other, device.collateral)
        with pytest.raises(RequestRefused, match="DatasetKeyError"):
            provision_model(session, bytes(32), image, policy, device.collateral)
        narrow = dataclasses.replace(program, config=dataclasses.replace(program.config, uop_buffer_bytes=1 << 14))
        with pytest.raises(RequestRefused, match="KeyDeliveryError.*not for this enclave"):
            another = build_device_image(narrow, model_key=KEY)
            provision_model(session, KEY, another, policy, device.collateral)
        with pytest.raises(RequestRefused, match="no such offer"):
            arrays = {"public_key": np.zeros(32, np.uint8), "sealed": np.zeros(84, np.uint8)}
            session.request(Message("model_key", arrays=arrays))
        provision_model(session, KEY, image, policy, device.collateral)
        np.testing.assert_array_equal(session.infer(images(1)), expected(quantised, images(1)))


def test_the_key_is_kept_for_the_next_boot_of_this_image_on_this_device(
    ready: Enclave,
    image: DeviceImage,
    platform: GinsengPlatform,
    policy: QuotePolicy,
    quantised: QuantisedModel,
    state: StateStore,
    tmp_path: Path,
) -> None:
    ready.close()
    with launch(image, platform, state=state) as again, again.connect(policy) as session:
        np.testing.assert_array_equal(session.infer(images(2)), expected(quantised, images(2)))
    with (
        launch(image, GinsengPlatform(tmp_path / "other"), state=state) as elsewhere,
        pytest.raises(RequestRefused, match="SealIdentityError"),
    ):
        elsewhere.connect(None).infer(images(1))


def test_sealed_state_that_is_put_back_or_taken_away_is_refused(
    ready: Enclave, image: DeviceImage, platform: GinsengPlatform, policy: QuotePolicy, state: StateStore
) -> None:
    (path,) = state.folder.glob("*.sealed")
    old = path.read_bytes()
    with ready.connect(policy) as session:
        provision_model(session, KEY, image, policy, ready.collateral)
    ready.close()
    assert path.read_bytes() != old
    path.write_bytes(old)
    with launch(image, platform, state=state) as again:
        with pytest.raises(RequestRefused, match="RollbackError.*not the newest"):
            again.connect(None).infer(images(1))
        path.unlink()
        with pytest.raises(RequestRefused, match="RollbackError.*no state was given"):
            again.connect(None).infer(images(1))


def test_a_version_older_than_one_that_has_booted_is_refused(
    program: VtaProgram, signer: Signer, tmp_path: Path
) -> None:
    platform = GinsengPlatform(tmp_path)
    versions = {svn: build_device_image(program, signer=signer, svn=svn) for svn in (2, 3)}
    for svn in (2, 3):
        launch(versions[svn], platform).close()
    with pytest.raises(RollbackError, match="version 2 of product 1, and version 3 has booted"):
        launch(versions[2], platform)
    launch(build_device_image(program, signer=signer, svn=2, product_id=2), platform).close()
    launch(build_device_image(program, svn=1), platform).close()


def altered(image: DeviceImage, name: str) -> DeviceImage:
    """With the last byte of a file changed, under the same signature."""
    files = tuple(
        made(file.name, file.read()[:-1] + bytes([file.read()[-1] ^ 1])) if file.name == name else file
        for file in image.files
    )
    return DeviceImage(files, image.signature)


def test_what_was_measured_is_what_boots(
    program: VtaProgram, image: DeviceImage, platform: GinsengPlatform, signer: Signer
) -> None:
    plain = build_device_image(program, signer=signer)
    measured = {plain.measurement, image.measurement}
    for name in ("bitstream/tec.sv", "monitor/table.py", "firmware/service.py"):
        other = altered(image, name)
        measured.add(other.measurement)
        signed = DeviceImage(other.files, signer.sign(other.measurement, 1, 1))
        with pytest.raises(BootError, match=rf"another device: {name}"):
            launch(signed, platform)
    for source, name in ((plain, "program/parameters"), (image, "program/parameters.sealed")):
        other = altered(source, name)
        measured.add(other.measurement)
        with pytest.raises(ImageError, match="not its signer's"):
            launch(other, platform)
    assert len(measured) == 7


def test_its_quotes_hang_from_the_simulated_makers_root_alone(
    device: Enclave, policy: QuotePolicy, platform: GinsengPlatform
) -> None:
    with device.connect(policy) as session:
        assert session.verdict is not None
        assert "SIMULATED accelerator root, NOT A MAKER'S" in session.verdict.anchor
        assert session.verdict.measurement == device.image.measurement == device.measurement
    for root in (SimulatedRoot.create().certificate, None):
        with pytest.raises(EvidenceError):
            device.connect(dataclasses.replace(policy, root=root))
    assert device.report.missing == {"a chip of its own": "played by a process of this host"}


def test_what_crosses_the_hosts_channel_is_ciphertext(
    ready: Enclave, policy: QuotePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = bytearray()
    send = Stream.send

    def watched(self: Stream, parts: list[Buffer]) -> None:
        passed.extend(b"".join(parts))
        send(self, parts)

    monkeypatch.setattr(Stream, "send", watched)
    secret = images(1).tobytes()
    with ready.connect(policy) as session:
        session.infer(images(1))
    assert len(passed) > len(secret) and secret[:64] not in passed
    ready.connect(None).infer(images(1))
    assert secret in passed


def test_memory_holds_neither_weights_nor_images_in_the_clear(
    ready: Enclave, policy: QuotePolicy, program: VtaProgram, quantised: QuantisedModel
) -> None:
    with ready.connect(policy) as session:
        session.infer(images(1))
    seen = bytes(dram(ready))
    contents = program.image(quantised.parameters)
    packed = program.pack(quantised.quantise_images(images(1))[0])
    assert len(seen) > max(region.end for region in program.regions.values())
    for secret in (*contents.values(), packed):
        assert secret[:64] not in seen


def test_memory_that_was_changed_halts_the_device(ready: Enclave, policy: QuotePolicy, program: VtaProgram) -> None:
    region = next(region for name, region in program.regions.items() if name.endswith(":weights"))
    memory = dram(ready)
    memory[region.base] ^= 1
    with ready.connect(policy) as session:
        with pytest.raises(RequestRefused, match=f"IntegrityError.*{region.name}"):
            session.infer(images(1))
        memory[region.base] ^= 1
        for request in (Message("status"), Message("infer", arrays={"images": images(1)})):
            with pytest.raises(RequestRefused, match="HaltedError.*launch the device again"):
                session.request(request)


def test_a_snapshot_of_memory_that_is_put_back_halts_the_device(
    ready: Enclave, image: DeviceImage, policy: QuotePolicy
) -> None:
    """The model's key is delivered anew, so weights have another version than in the snapshot."""
    snapshot = bytes(dram(ready))
    with ready.connect(policy) as session:
        provision_model(session, KEY, image, policy, ready.collateral)
        session.infer(images(1))
        dram(ready)[:] = snapshot
        with pytest.raises(RequestRefused, match="IntegrityError.*flipped, moved or replayed"):
            session.infer(images(1))


@pytest.mark.parametrize("kind", ["train", "offer", "provision"])
def test_training_requests_are_refused_by_their_own_error(device: Enclave, kind: str) -> None:
    with pytest.raises(RequestRefused, match="TrainingUnsupportedError.*not claimed") as error:
        device.connect(None).request(Message(kind))
    assert error.value.type == "TrainingUnsupportedError"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (images(1).astype(np.float64), "float32"),
        (np.zeros((1, 3, 8, 9), np.float32), r"\(B, 3, 8, 8\)"),
        (np.zeros(SHAPE, np.float32), r"\(B, 3, 8, 8\)"),
        (np.full((1, *SHAPE), np.nan, np.float32), "no number"),
    ],
)
def test_what_are_no_images_is_refused_and_it_goes_on(ready: Enclave, wrong: np.ndarray, complaint: str) -> None:
    session = ready.connect(None)
    with pytest.raises(RequestRefused, match=f"RequestError.*{complaint}"):
        session.request(Message("infer", arrays={"images": wrong}))
    with pytest.raises(RequestRefused, match="status takes nothing"):
        session.request(Message("status", {"all": 1}))
    assert session.infer(images(1)).shape == (1, 10)


def test_a_plain_model_takes_no_key_and_a_table_of_shapes_makes_no_image(
    program: VtaProgram, platform: GinsengPlatform, signer: Signer
) -> None:
    plain = build_device_image(program, signer=signer)
    policy = QuotePolicy(measurements=frozenset({plain.measurement}), root=platform.root.certificate)
    with (
        launch(plain, platform) as device,
        device.connect(policy) as session,
        pytest.raises(RequestRefused, match="not encrypted; it takes no key"),
    ):
        provision_model(session, KEY, plain, policy, device.collateral)
    with pytest.raises(PackageError, match="lower a PyTorch model"):
        build_device_image(lower("tiny"), signer=signer)


def test_a_device_that_dies_says_how(image: DeviceImage, platform: GinsengPlatform, tmp_path: Path) -> None:
    with launch(image, platform) as device:
        process = device.process
        assert isinstance(process, GinsengProcess)
        process._process.kill()
        with pytest.raises(Exception, match="SIGKILL"):
            device.connect(None).status()
        assert not device.alive
        with pytest.raises(LaunchError, match="inside"):
            process.quote(bytes(64))
        with pytest.raises(LaunchError, match="inside"):
            process.sealing_keys()


def test_status_counts_requests(device: Enclave) -> None:
    session = device.connect(None)
    assert [session.status()["served"] for _ in range(3)] == [0, 1, 2]
    session.cancel()  # nothing trains here: it is ignored
    assert session.status()["served"] == 3
