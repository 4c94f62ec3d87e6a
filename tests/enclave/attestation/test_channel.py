"""The attested handshake between a client and an enclave (played in this process), and what may go wrong in it."""

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.enclave.channel import Initiator
from privlib.enclave.refusals import AttestationError, EvidenceError, FreshnessError, MeasurementError
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.errors import PrivlibError
from privlib.trusted import channel
from privlib.trusted.channel import Responder, read_answer, read_finish, read_hello
from privlib.trusted.channel_errors import ChannelError, ClientError, HandshakeError
from privlib.trusted.stream import MessageStream
from tests.enclave.attestation.conftest import MEASUREMENT, NOW, SIGNER, Evidence
from tests.trusted.wires import Tape


@pytest.fixture
def quoting(simulated_root: SimulatedRoot) -> Callable[[bytes], bytes]:
    return lambda data: simulated_root.quote(MEASUREMENT, SIGNER, 7, 3, False, data)


def exchange(
    initiator: Initiator, responder: Responder, quoting: Callable[[bytes], bytes], evidence: Evidence
) -> tuple[MessageStream, MessageStream]:
    """The handshake, message by message; (client's stream, enclave's stream), each on a tape."""
    answer = responder.answer(quoting(responder.begin(initiator.hello)))
    finish, sealer, opener, verdict = initiator.verify(answer, evidence.policy, evidence.collateral, evidence.now)
    assert verdict.measurement == MEASUREMENT
    return MessageStream(Tape(), sealer, opener), MessageStream(Tape(), *responder.finish(finish))


def test_both_ends_derive_keys_that_fit(quoting: Callable[[bytes], bytes], simulated: Evidence) -> None:
    client, enclave = exchange(Initiator("train"), Responder(), quoting, simulated)
    client.send(b"to the enclave")
    enclave._transport.to_read = client._transport.written[0]  # type: ignore[attr-defined]  # a tape
    assert enclave.receive(100) == b"to the enclave"
    enclave.send(b"to the client")
    client._transport.to_read = enclave._transport.written[0]  # type: ignore[attr-defined]  # a tape
    assert client.receive(100) == b"to the client"


def test_a_client_may_prove_who_it_is(quoting: Callable[[bytes], bytes], simulated: Evidence) -> None:
    identity = Ed25519PrivateKey.generate()
    known = identity.public_key().public_bytes_raw()
    responder = Responder({known})
    exchange(Initiator("reverse", identity), responder, quoting, simulated)
    assert (responder.client, responder.purpose) == (known, "reverse")


def test_two_handshakes_share_no_key(quoting: Callable[[bytes], bytes], simulated: Evidence) -> None:
    wires = set()
    for _ in range(2):
        client, _ = exchange(Initiator(), Responder(), quoting, simulated)
        client.send(b"the same message")
        wires.add(client._transport.written[0])  # type: ignore[attr-defined]  # a tape
    assert len(wires) == 2


def relayed(field: int, value: bytes) -> Callable[[bytes], bytes]:
    """A host that exchanges bytes of a message on its way."""
    return lambda message: message[:field] + value + message[field + len(value) :]


ANSWER_ATTACKS: dict[str, tuple[Callable[[bytes, SimulatedRoot], bytes], type[PrivlibError]]] = {
    "the host's share in the enclave's answer": (lambda a, r: relayed(4, secrets.token_bytes(32))(a), FreshnessError),
    "yesterday's answer": (
        lambda a, r: answered(Initiator().hello, r), FreshnessError
    ),
    "a quote made for another use of the same key": (
        lambda a, r: channel.encode_answer(read_answer(a)[0], r.quote(MEASUREMENT, SIGNER, 7, 3, False, bytes(64))),
        FreshnessError,
    ),
    "another enclave's answer": (
        lambda a, r: channel.encode_answer(read_answer(a)[0], r.quote(bytes(32), SIGNER, 7, 3, False, bytes(64))),
        MeasurementError,
    ),
    "a quote with one byte changed": (lambda a, r: relayed(40 + 48 + 64, b"\xff")(a), EvidenceError),
    "an answer cut short": (lambda a, r: a[:-1], HandshakeError),
    "an answer with more behind it": (lambda a, r: a + b"\0", HandshakeError),
    "a finish for an answer": (lambda a, r: channel.encode_finish(bytes(64), bytes(32)), HandshakeError),
    "no answer": (lambda a, r: b"", HandshakeError),
}  # fmt: skip


def answered(hello: bytes, root: SimulatedRoot) -> bytes:
    responder = Responder()
    return responder.answer(root.quote(MEASUREMENT, SIGNER, 7, 3, False, responder.begin(hello)))


@pytest.mark.parametrize("name", ANSWER_ATTACKS)
def test_attack_on_the_answer_meets_its_error_before_anything_is_sent(
    name: str, simulated: Evidence, simulated_root: SimulatedRoot
) -> None:
    attack, error = ANSWER_ATTACKS[name]
    initiator = Initiator()
    answer = attack(answered(initiator.hello, simulated_root), simulated_root)
    with pytest.raises(PrivlibError) as refused:
        initiator.verify(answer, simulated.policy, simulated.collateral, NOW)
    assert type(refused.value) is error, refused.value
    with pytest.raises(HandshakeError, match="over"):
        initiator.verify(answer, simulated.policy, simulated.collateral, NOW)


def test_a_share_of_small_order_is_refused_by_both_ends(simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    """Its secret would be zero whatever the other key is."""
    responder = Responder()
    report = responder.begin(relayed(4, bytes(32))(Initiator().hello))
    with pytest.raises(HandshakeError, match="share is not usable"):
        responder.answer(simulated_root.quote(MEASUREMENT, SIGNER, 7, 3, False, report))
    with pytest.raises(HandshakeError, match="nothing was due"):
        responder.finish(bytes(100))
    with pytest.raises(HandshakeError, match="share is not usable"):
        channel.derive(channel.X25519PrivateKey.generate(), bytes(32), b"", b"")


def finished(initiator: Initiator, responder: Responder, root: SimulatedRoot, evidence: Evidence) -> bytes:
    answer = responder.answer(root.quote(MEASUREMENT, SIGNER, 7, 3, False, responder.begin(initiator.hello)))
    return initiator.verify(answer, evidence.policy, evidence.collateral, NOW)[0]


def test_a_host_that_changes_the_hello_is_noticed_by_the_client(
    simulated: Evidence, simulated_root: SimulatedRoot
) -> None:
    for offset in (4, 40, 70, 104):  # share, nonce, identity, purpose
        initiator = Initiator("train")
        hello = bytearray(initiator.hello)
        hello[offset] ^= 1
        answer = answered(bytes(hello), simulated_root)
        with pytest.raises(FreshnessError):
            initiator.verify(answer, simulated.policy, simulated.collateral, NOW)


@pytest.mark.parametrize(("offset", "error"), [(0, HandshakeError), (4, ClientError), (68, HandshakeError)])
def test_an_altered_finish_is_refused(
    offset: int, error: type[ChannelError], simulated: Evidence, simulated_root: SimulatedRoot
) -> None:
    initiator, responder = Initiator(identity=Ed25519PrivateKey.generate()), Responder()
    finish = bytearray(finished(initiator, responder, simulated_root, simulated))
    finish[offset] ^= 1
    with pytest.raises(error) as refused:
        responder.finish(bytes(finish))
    assert type(refused.value) is error
    assert responder.client is None


def test_a_finish_of_another_session_is_refused(simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    first, second = Responder(), Responder()
    finish = finished(Initiator(), first, simulated_root, simulated)
    finished(Initiator(), second, simulated_root, simulated)
    with pytest.raises(HandshakeError, match="same keys"):
        second.finish(finish)


def test_a_client_that_is_not_on_the_list_is_refused_at_once() -> None:
    known = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    for initiator in (Initiator(), Initiator(identity=Ed25519PrivateKey.generate())):
        with pytest.raises(ClientError, match="list"):
            Responder({known}).begin(initiator.hello)
    with pytest.raises(ClientError):
        Responder(set()).begin(Initiator().hello)
    for no_key in (bytes(32), b"short"):
        with pytest.raises(ClientError, match="no Ed25519 public key"):
            Responder({known, no_key})


def test_a_client_that_names_somebody_else_s_identity_is_refused(
    simulated: Evidence, simulated_root: SimulatedRoot
) -> None:
    known = Ed25519PrivateKey.generate()
    initiator, responder = Initiator(identity=known), Responder({known.public_key().public_bytes_raw()})
    initiator._identity = Ed25519PrivateKey.generate()  # it knows the public key alone
    finish = finished(initiator, responder, simulated_root, simulated)
    with pytest.raises(ClientError, match="does not hold"):
        responder.finish(finish)


def test_steps_out_of_turn_are_refused(quoting: Callable[[bytes], bytes]) -> None:
    refused = Responder()
    with pytest.raises(HandshakeError, match="hello"):
        refused.begin(b"")
    with pytest.raises(HandshakeError, match="nothing was due"):
        refused.begin(Initiator().hello)
    for step in (lambda r: r.answer(b""), lambda r: r.finish(bytes(100))):
        with pytest.raises(HandshakeError, match="begin was due"):
            step(Responder())
    responder = Responder()
    responder.begin(Initiator().hello)
    with pytest.raises(HandshakeError, match="answer was due"):
        responder.begin(Initiator().hello)


def test_a_purpose_that_is_too_long_is_refused() -> None:
    with pytest.raises(HandshakeError, match="at most 255"):
        Initiator("p" * 256)


def test_the_policy_s_own_report_data_are_replaced_by_this_session_s(
    quoting: Callable[[bytes], bytes], simulated: Evidence
) -> None:
    evidence = replace(simulated, policy=replace(simulated.policy, report_data=bytes(64)))
    exchange(Initiator(), Responder(), quoting, evidence)


HELLO = Initiator("purpose").hello
ANSWER = channel.encode_answer(bytes(32), b"quote" * 10)
FINISH = channel.encode_finish(bytes(64), bytes(32))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    message = bytearray(draw(st.sampled_from((HELLO, ANSWER, FINISH))))
    at = draw(st.integers(0, len(message)))
    message[at : at + draw(st.sampled_from((0, 1, 2, 40)))] = draw(st.binary(max_size=4))
    return bytes(message)


def every_reader_reads_all_or_refuses(data: bytes) -> None:
    for reader in (read_hello, read_answer, read_finish):
        try:
            found = reader(data)
        except HandshakeError:
            continue
        if reader is read_hello:
            assert found.encode() == data  # type: ignore[union-attr]  # a Hello
        elif reader is read_answer:
            assert channel.encode_answer(*found) == data  # type: ignore[misc]  # (share, quote)
        else:
            assert channel.encode_finish(*found) == data  # type: ignore[misc]  # (signature, confirmation)
    responder = Responder()
    try:
        responder.begin(data)
        responder.answer(b"quote")
        with pytest.raises(HandshakeError):
            responder.finish(data)
    except HandshakeError:
        pass


@given(messages())
@settings(max_examples=300, deadline=None)
def test_hostile_messages_are_read_whole_or_refused(data: bytes) -> None:
    every_reader_reads_all_or_refuses(data)


@pytest.mark.soak
@given(messages())
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_messages_are_read_whole_or_refused(data: bytes) -> None:
    every_reader_reads_all_or_refuses(data)


def test_an_attestation_error_is_no_channel_error() -> None:
    """A caller tells a bad enclave from a bad wire."""
    assert not issubclass(AttestationError, ChannelError) and not issubclass(ChannelError, AttestationError)
