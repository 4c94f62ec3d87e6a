"""Sessions in an attested channel: whom they talk to, and what a host that carries them can see and do."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.errors import EnclaveDied, EnclaveError, RequestRefused
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import Enclave, launch
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import DebugError, EvidenceError, FreshnessError, MeasurementError, SignerError
from privlib.enclave.session import Session
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.errors import PrivlibError
from privlib.trusted import CompiledModel, load
from privlib.trusted.channel_errors import ChannelError
from privlib.trusted.door import MAXIMUM_CHANNELS
from privlib.trusted.protocol import Message, decode
from tests.enclave.hosts import Meddler
from tests.enclave.providers import Provider, examples


@pytest.fixture(scope="module")
def enclave(image: EnclaveImage) -> Iterator[Enclave]:
    with launch(image) as running:
        yield running


@pytest.fixture
def host(enclave: Enclave) -> Iterator[Meddler]:
    process, before = enclave._process, enclave._process.transport
    yield Meddler(enclave)
    process.transport = before  # type: ignore[misc]  # an attribute of the simulated one


def test_inference_in_a_channel_gives_the_bits_of_outside(
    enclave: Enclave, policy: QuotePolicy, inference_artifact: Path
) -> None:
    outside, images = load(inference_artifact), examples(6)[0]
    assert isinstance(outside, CompiledModel)
    with enclave.connect(policy) as session:
        assert session.verdict and session.verdict.simulated and "NOT INTEL" in session.verdict.anchor
        np.testing.assert_array_equal(session.infer(images), outside.run(images))


def test_the_host_sees_neither_images_nor_logits(enclave: Enclave, policy: QuotePolicy, host: Meddler) -> None:
    images = examples(6)[0]
    logits = enclave.connect(policy).infer(images)
    piece = [each.tobytes()[:16] for each in (images[3], logits[3])]
    assert not any(each in host.seen for each in piece)
    enclave.connect(None).infer(images)  # in the clear it sees both
    assert all(each in host.seen for each in piece)


REFUSED: dict[str, tuple[Callable[[QuotePolicy], QuotePolicy], type[PrivlibError]]] = {
    "another measurement": (
        lambda policy: replace(policy, measurements=frozenset(bytes([each[0] ^ 1]) + each[1:]
                                                              for each in policy.measurements)), MeasurementError,
    ),
    "another signer": (lambda policy: replace(policy, signers=frozenset({bytes(32)})), SignerError),
    "Intel's root": (lambda policy: replace(policy, root=None), EvidenceError),
    "another simulated root": (
        lambda policy: replace(policy, root=SimulatedRoot.create().certificate), EvidenceError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_sent_to_an_enclave_that_the_policy_does_not_accept(
    name: str, enclave: Enclave, policy: QuotePolicy, host: Meddler
) -> None:
    change, error = REFUSED[name]
    with pytest.raises(error):
        enclave.connect(change(policy))
    kinds = [payload.split(b'"kind": "')[1].split(b'"')[0] for payload in host.sent]
    assert kinds == [b"hello", b"host", b"leave"]  # the quote that it asked for, and good-bye
    assert enclave.connect(policy).status()["busy"] == ""


def test_a_debug_enclave_is_refused(image: EnclaveImage, policy: QuotePolicy) -> None:
    with launch(image, debug=True) as running, pytest.raises(DebugError):
        running.connect(policy)


def test_a_recorded_quote_does_not_serve_another_handshake(
    enclave: Enclave, policy: QuotePolicy, host: Meddler
) -> None:
    """The host plays back the whole answer of an earlier handshake."""
    answers: list[Message] = []

    def replay(message: Message) -> Message:
        if message.kind != "answer":
            return message
        answers.append(message)
        return Message("answer", message.fields, answers[0].arrays)

    host.to_client = replay
    enclave.connect(policy)
    with pytest.raises(FreshnessError):
        enclave.connect(policy)


def test_a_quote_for_the_host_s_own_key_cannot_be_had(enclave: Enclave) -> None:
    """What it takes to stand between: report data of the host's choice."""
    for arrays in ({"report_data": np.zeros(64, np.uint8)}, {"nonce": np.zeros(64, np.uint8)}):
        answer = enclave._link.exchange(Message("quote", arrays=arrays))
        assert (answer.kind, answer.fields["type"]) == ("error", "RequestError")


def flip(data: np.ndarray, at: int) -> np.ndarray:
    found = data.copy()
    found[at] ^= 1
    return found


def last(host: Meddler) -> np.ndarray:
    """The last record that went in."""
    records = [decode(payload) for payload in host.sent]
    return [each.arrays["data"] for each in records if each.kind == "record"][-1]


def edited(message: Message, data: np.ndarray) -> Message:
    return Message(message.kind, message.fields, {"data": data}) if message.kind == "record" else message


ON_THE_WAY_IN: dict[str, tuple[Callable[[Message, Meddler], np.ndarray], str]] = {
    "flips a bit": (lambda message, _: flip(message.arrays["data"], -1), "AuthenticationError"),
    "flips a bit of the header": (lambda message, _: flip(message.arrays["data"], 0), "RecordFormatError"),
    "replays a record": (lambda _, host: last(host), "ReplayError"),
    "cuts a record": (lambda message, _: message.arrays["data"][:-1], "TruncationError"),
    "puts bytes behind it": (lambda message, _: np.append(message.arrays["data"], np.uint8(0)), "RecordFormatError"),
    "sends nothing": (lambda message, _: message.arrays["data"][:0], "TruncationError"),
}


@pytest.mark.parametrize("name", ON_THE_WAY_IN)
def test_what_a_host_changes_on_the_way_in_is_refused_inside(
    name: str, enclave: Enclave, policy: QuotePolicy, host: Meddler
) -> None:
    make, error = ON_THE_WAY_IN[name]
    session = enclave.connect(policy)
    session.status()
    host.to_enclave = lambda message: edited(message, make(message, host)) if message.kind == "record" else message
    with pytest.raises(RequestRefused) as caught:
        session.status()
    assert caught.value.type == error
    host.to_enclave = lambda message: message
    with pytest.raises(EnclaveDied, match="broke off; connect again"):
        session.status()
    assert enclave.connect(policy).status()["busy"] == ""


ON_THE_WAY_OUT: dict[str, Callable[[Message, Meddler], Message]] = {
    "flips a bit": lambda message, _: edited(message, flip(message.arrays["data"], -1)),
    "reflects": lambda message, host: edited(message, last(host)),
    "cuts": lambda message, _: edited(message, message.arrays["data"][:-1]),
    "answers itself": lambda message, _: Message("result", {"rows": {}}),
}


@pytest.mark.parametrize("name", ON_THE_WAY_OUT)
def test_what_a_host_changes_on_the_way_out_is_refused_outside(
    name: str, enclave: Enclave, policy: QuotePolicy, host: Meddler
) -> None:
    session = enclave.connect(policy)
    host.to_client = lambda message: ON_THE_WAY_OUT[name](message, host)
    with pytest.raises(ChannelError):
        session.status()
    host.to_client = lambda message: message
    with pytest.raises(EnclaveDied, match="broke off"):
        session.status()


def test_one_channel_s_records_do_not_open_in_another(enclave: Enclave, policy: QuotePolicy, host: Meddler) -> None:
    one, other = enclave.connect(policy), enclave.connect(policy)
    assert one._channel and other._channel
    number = other._channel[0]
    host.to_enclave = lambda message: (
        Message("record", {"channel": number}, message.arrays) if message.kind == "record" else message
    )
    with pytest.raises(RequestRefused, match="AuthenticationError"):
        one.status()


def test_channels_are_bounded_and_given_back(image: EnclaveImage, policy: QuotePolicy) -> None:
    with launch(image) as running:
        sessions = [running.connect(policy) for _ in range(MAXIMUM_CHANNELS)]
        with pytest.raises(RequestRefused, match="channels are open"):
            running.connect(policy)
        sessions[3].close()
        assert running.connect(policy).infer(examples(1)[0]).shape == (1, 10)


def test_a_client_may_prove_who_it_is(enclave: Enclave, policy: QuotePolicy) -> None:
    assert enclave.connect(policy, identity=Ed25519PrivateKey.generate()).status()["busy"] == ""


def test_a_key_is_never_given_in_the_clear(enclave: Enclave, provider: Provider) -> None:
    session: Session = enclave.connect(None)
    with pytest.raises(EnclaveError, match="attested enclave alone"):
        provider.release_to(session)
