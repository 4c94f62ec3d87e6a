"""Requests to a worker: what is right is answered as outside, what is wrong is refused by its name."""

import json
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privlib.enclave import session as session_module
from privlib.enclave.errors import EnclaveDied, RequestRefused
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import Enclave, launch
from privlib.enclave.policy import QuotePolicy
from privlib.trusted import CompiledModel, load
from privlib.trusted.protocol import MAXIMUM_FRAME, Message, decode, encode
from privlib.trusted.terms import Terms


@pytest.fixture(scope="module")
def enclave(image: EnclaveImage) -> Iterator[Enclave]:
    with launch(image) as running:
        yield running


@pytest.fixture(scope="module")
def trainer(training_image: EnclaveImage) -> Iterator[Enclave]:
    with launch(training_image) as running:
        yield running


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)


def labels(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % 10


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_inference_inside_gives_the_bits_of_outside(enclave: Enclave, inference_artifact: Path, count: int) -> None:
    outside = load(inference_artifact)
    assert isinstance(outside, CompiledModel)
    np.testing.assert_array_equal(enclave.connect(None).infer(images(count)), outside.run(images(count)))


def test_many_images_go_in_several_requests(
    enclave: Enclave, inference_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, session = load(inference_artifact), enclave.connect(None)
    assert isinstance(outside, CompiledModel)
    before = session.status()["served"]
    monkeypatch.setattr(session_module, "MAXIMUM_PAYLOAD", 3 * (4 * 3 * 32 * 32) + (128 << 10))
    np.testing.assert_array_equal(session.infer(images(8)), outside.run(images(8)))
    assert session.status()["served"] - before == 1 + 3  # the status request itself, and 3 + 3 + 2 images


def test_threads_may_share_a_session(enclave: Enclave, inference_artifact: Path) -> None:
    outside, session, found = load(inference_artifact), enclave.connect(None), {}
    assert isinstance(outside, CompiledModel)

    def ask(seed: int) -> None:
        found[seed] = [session.infer(images(3, seed)) for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, answers in found.items():
        for answer in answers:
            np.testing.assert_array_equal(answer, outside.run(images(3, seed)))
    assert len(found) == 4


TRAIN: dict[str, Any] = {
    "datasets": ["0" * 64],
    "steps": 1,
    "sample_rate": 0.5,
    "physical_batches": 1,
    "learning_rate": None,
}
BYTES = np.zeros(84, np.uint8)
PROVISION: dict[str, Any] = {"dataset": "0" * 64, "terms": Terms(1.0).encode().decode(), "grant": ""}
KEYS = {"public_key": BYTES[:32], "sealed": BYTES}
WRONG_TRAINING: dict[str, tuple[Message, str, str]] = {
    "steps of 0": (Message("train", {**TRAIN, "steps": 0}), "TrainingError", "steps"),
    "steps as text": (Message("train", {**TRAIN, "steps": "1"}), "TrainingError", "steps"),
    "steps without end": (Message("train", {**TRAIN, "steps": 10**9}), "TrainingError", "steps"),
    "steps true": (Message("train", {**TRAIN, "steps": True}), "TrainingError", "steps"),
    "sample rate over 1": (Message("train", {**TRAIN, "sample_rate": 1.5}), "TrainingError", "sample_rate"),
    "sample rate 0": (Message("train", {**TRAIN, "sample_rate": 0.0}), "TrainingError", "sample_rate"),
    "sample rate missing": (Message("train", {"steps": 1}), "RequestError", "train takes"),
    "negative learning rate": (Message("train", {**TRAIN, "learning_rate": -1.0}), "TrainingError", "learning_rate"),
    "no batches": (Message("train", {**TRAIN, "physical_batches": 0}), "TrainingError", "physical_batches"),
    "a test key of the noise": (Message("train", {**TRAIN, "test_key": "00" * 32}), "RequestError", "train takes"),
    "inference": (Message("infer", arrays={"images": images(1)}), "RequestError", "this enclave trains"),
    "no datasets": (Message("train", {**TRAIN, "datasets": []}), "TrainingError", "from 1 to"),
    "datasets as text": (Message("train", {**TRAIN, "datasets": "0" * 64}), "RequestError", "a list"),
    "a dataset twice": (Message("train", {**TRAIN, "datasets": ["0" * 64] * 2}), "TrainingError", "different digests"),
    "a dataset by its name": (Message("train", {**TRAIN, "datasets": ["CIFAR-10"]}), "TrainingError", "64 hexadecimal"),
    "a dataset that is a number": (Message("train", {**TRAIN, "datasets": [1]}), "TrainingError", "64 hexadecimal"),
    "a dataset nobody released": (Message("train", TRAIN), "ConsentError", "not released yet: 0000"),
    "an offer with a short nonce": (Message("offer", arrays={"nonce": BYTES[:31]}), "RequestError", "nonce is uint8"),
    "an offer nobody made": (Message("provision", PROVISION, KEYS), "ProvisionError", "no such offer"),
    "terms that are a number": (Message("provision", {**PROVISION, "terms": 3}, KEYS), "RequestError", "text"),
    "a dataset without a name": (Message("provision", {**PROVISION, "dataset": ""}, KEYS), "ProvisionError", "SHA-256"),
    "a key of another size": (
        Message("provision", PROVISION, {**KEYS, "public_key": BYTES[:5]}), "RequestError", "public_key is uint8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TRAINING)
def test_a_wrong_training_request_is_refused_and_the_enclave_goes_on(trainer: Enclave, name: str) -> None:
    message, kind, text = WRONG_TRAINING[name]
    session = trainer.connect(None)
    before = session.status()["updates"]
    with pytest.raises(RequestRefused, match=text) as caught:
        session.request(message)
    assert caught.value.type == kind
    assert session.status()["updates"] == before


def head(**changes: Any) -> bytes:
    return json.dumps({"kind": "status", "fields": {}, "arrays": [], **changes}).encode()


def payload(text: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<I", len(text) if length is None else length) + text + rest


MALFORMED: dict[str, tuple[bytes, str, str]] = {
    "nothing at all": (b"", "ProtocolError", "no head"),
    "half a length": (b"\x01\x00", "ProtocolError", "no head"),
    "a head longer than the message": (payload(head(), length=1000), "ProtocolError", "1000 bytes is announced"),
    "a head without end": (payload(head(), length=2**32 - 1), "ProtocolError", "is announced"),
    "a head over its limit": (payload(b" " * (65 << 10) + head()), "ProtocolError", "is announced"),
    "a head that is no text": (payload(b"\xff\xfe\xfd"), "ProtocolError", "UnicodeDecodeError"),
    "a head that is no JSON": (payload(b"{status"), "ProtocolError", "JSONDecodeError"),
    "a head of brackets": (payload(b"[" * 60_000), "ProtocolError", "nested"),
    "a head that is a number": (payload(b"1"), "ProtocolError", "malformed"),
    "a number of 9,999 digits": (payload(head(fields={"a": 0}).replace(b"0", b"1" * 9999)), "ProtocolError", "digits"),
    "not a number": (payload(b'{"kind": "status", "fields": {"a": NaN}, "arrays": []}'), "ProtocolError", "NaN"),
    "a head with a part missing": (payload(b'{"kind": "status"}'), "ProtocolError", "fields"),
    "a head with a part more": (payload(head(more=1)), "ProtocolError", "nothing else"),
    "a kind that is no text": (payload(head(kind=["status"])), "ProtocolError", "kind must be"),
    "fields in a list": (payload(head(fields=[1])), "ProtocolError", "fields an object"),
    "arrays in an object": (payload(head(arrays={"a": 1})), "ProtocolError", "arrays a list"),
    "an unknown request": (payload(head(kind="dump")), "RequestError", "'dump' is no request"),
    "a field too many": (payload(head(fields={"all": 1})), "RequestError", "status takes nothing"),
    "an array too many": (payload(head(arrays=[["x", "uint8", [0]]])), "RequestError", "status takes nothing"),
    "bytes behind the end": (payload(head(), b"more"), "ProtocolError", "4 bytes follow"),
    "an array that is not there": (payload(head(arrays=[["x", "uint8", [9]]]), b"123"), "ProtocolError", "9 bytes, 3"),
    "an array of objects": (payload(head(arrays=[["x", "object", [1]]]), bytes(8)), "ProtocolError", "object"),
    "an array of negative size": (payload(head(arrays=[["x", "uint8", [-1]]])), "ProtocolError", "shape"),
    "an array without end": (payload(head(arrays=[["x", "uint8", [2**39] * 8]])), "ProtocolError", "needs"),
    "an array of 99 axes": (payload(head(arrays=[["x", "uint8", [1] * 99]])), "ProtocolError", "shape"),
    "two arrays of one name": (payload(head(arrays=[["x", "uint8", [0]]] * 2)), "ProtocolError", "named twice"),
    "truths that are neither": (payload(head(arrays=[["x", "bool", [1]]]), b"\2"), "ProtocolError", "truth"),
    "an array's entry cut": (payload(head(arrays=[["x", "uint8"]])), "ProtocolError", "malformed"),
    "images of another type": (
        b"".join(encode(Message("infer", arrays={"images": np.zeros((1, 3, 32, 32))}))), "InputError", "float32",
    ),
    "images of another shape": (
        b"".join(encode(Message("infer", arrays={"images": images(1)[:, :2]}))), "InputError", "expected a NumPy array",
    ),
    "a nonce of another size": (
        b"".join(encode(Message("quote", arrays={"nonce": np.zeros(31, np.uint8)}))), "RequestError", "nonce is uint8",
    ),
    "report data of the host's choice": (
        b"".join(encode(Message("quote", arrays={"report_data": BYTES[:64]}))), "RequestError", "takes nonce",
    ),
    "a channel that nobody opened": (
        b"".join(encode(Message("record", {"channel": 7}, {"data": BYTES}))), "RequestError", "channel 7",
    ),
    "a channel without a number": (
        b"".join(encode(Message("leave", {"channel": "1"}))), "RequestError", "no channel '1'",
    ),
    "a hello that is none": (
        b"".join(encode(Message("hello", arrays={"data": np.zeros(9, np.uint8)}))), "HandshakeError", "hello: 9 bytes",
    ),
    "an answer that nothing was asked for": (b"".join(encode(Message("host"))), "RequestError", "'host' is no request"),
    "training": (b"".join(encode(Message("train", TRAIN))), "RequestError", "this enclave infers"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_refused_by_name_and_the_enclave_goes_on(enclave: Enclave, name: str) -> None:
    data, kind, text = MALFORMED[name]
    transport = enclave._process.transport
    transport.send([data])
    answer = decode(transport.receive())
    assert answer.kind == "error" and answer.fields["type"] == kind
    assert text in answer.fields["text"]
    assert enclave.connect(None).infer(images(1)).shape == (1, 10)


def test_a_frame_over_the_limit_is_refused_before_it_is_sent(enclave: Enclave) -> None:
    with pytest.raises(Exception, match=f"longer than {MAXIMUM_FRAME}"):
        enclave._process.transport.send([bytes(MAXIMUM_FRAME + 1)])
    assert enclave.alive


def test_a_frame_over_the_limit_ends_the_worker_with_a_reason(image: EnclaveImage) -> None:
    with launch(image) as enclave:
        process: Any = enclave._process
        os.write(process._own.fileno(), struct.pack("<I", MAXIMUM_FRAME + 1))
        answer = decode(process.transport.receive())
        assert (answer.kind, answer.fields["type"]) == ("error", "ProtocolError")
        assert f"at most {MAXIMUM_FRAME} are taken" in answer.fields["text"]
        with pytest.raises(EnclaveDied, match="a frame it could not take"):
            enclave.connect(None).status()


def test_a_session_closes_once_and_says_so_afterwards(enclave: Enclave, policy: QuotePolicy) -> None:
    """The enclave goes on, and another session is not concerned."""
    for terms in (None, policy):
        with enclave.connect(terms) as session:
            session.status()
        session.close()
        with pytest.raises(EnclaveDied, match="it was closed|was closed; connect again"):
            session.infer(images(1))
    assert enclave.alive and enclave.connect(None).infer(images(1)).shape == (1, 10)
