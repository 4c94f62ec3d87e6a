"""Attestation and what is built on it: verification of quotes, a handshake, bulk data over the channel beside TLS 1.3,
encrypted datasets, sealed state. All in one thread on one core."""

import io
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privlib.enclave.channel import Initiator
from privlib.enclave.delivery import deliver_key
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.simulated_sealing import FileRegister, SimulatedPlatformSecret
from privlib.enclave.verify import verify_quote
from privlib.suite import record
from privlib.trusted.channel import Responder
from privlib.trusted.delivery import KeyOffer
from privlib.trusted.records import TO_ENCLAVE, Buffer, Opener, Sealer
from privlib.trusted.sealing import SealedState
from privlib.trusted.storage import DatasetReader, DatasetWriter
from privlib.trusted.stream import MessageStream

VERSION = "1"
ROWS = ("quote", "handshake", "channel", "storage", "sealing")
VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "attestation"
REAL = {"sgx": (1750416971, "ConfigurationAndSWHardeningNeeded"), "tdx": (1750414563, "UpToDate")}
REPETITIONS = {"smoke": 3, "quick": 15, "full": 101}
MEGABYTES = {"smoke": 8, "quick": 64, "full": 256}
_MEASUREMENT, _SIGNER = bytes(range(32)), bytes(range(32, 64))


def run(profile: str, rows: Sequence[str]) -> None:
    """Record `rows`: milliseconds a verification or a handshake, GB/s of bulk data."""
    for row in rows:
        _CASES[row](REPETITIONS[profile], MEGABYTES[profile] << 20)


def quote(repetitions: int, _size: int) -> None:
    """One verification with collateral and policy, real quotes at their own time and a simulated one today."""
    root = SimulatedRoot.create()
    made = root.quote(_MEASUREMENT, _SIGNER, 1, 1, False, bytes(64))
    policy, collateral = QuotePolicy(measurements=frozenset({_MEASUREMENT}), root=root.certificate), root.collateral()
    calls: dict[str, Callable[[], object]] = {"simulated": lambda: verify_quote(made, policy, collateral)}
    for name, (now, status) in REAL.items():
        evidence = (VECTORS / f"{name}_quote").read_bytes(), (VECTORS / f"{name}_quote_collateral.json").read_text()
        accepted = QuotePolicy(any_enclave=True, tcb_statuses=frozenset({status}))
        calls[name] = lambda e=evidence, p=accepted, n=now: verify_quote(e[0], p, e[1], n)  # type: ignore[misc]  # bound now
    for name, seconds in _interleaved(calls, 10 * repetitions).items():
        _latency(f"quote/{name}/verification", seconds)


def handshake(repetitions: int, _size: int) -> None:
    """Both ends of a handshake, and a delivered key, quoting and verification included; no wire in between."""
    root = SimulatedRoot.create()
    policy, collateral = QuotePolicy(measurements=frozenset({_MEASUREMENT}), root=root.certificate), root.collateral()

    def attest(report_data: bytes) -> bytes:
        return root.quote(_MEASUREMENT, _SIGNER, 1, 1, False, report_data)

    def channel_opens() -> None:
        initiator, responder = Initiator(), Responder()
        answer = responder.answer(attest(responder.begin(initiator.hello)))
        responder.finish(initiator.verify(answer, policy, collateral)[0])

    def key_arrives() -> None:
        nonce = os.urandom(32)
        offer = KeyOffer(_MEASUREMENT, nonce, "benchmark")
        sealed, _ = deliver_key(bytes(32), offer.public_key, attest(offer.report_data), nonce, policy,
                                purpose="benchmark", dataset=b"d", collateral=collateral)  # fmt: skip
        offer.open(sealed, b"d")

    for name, seconds in _interleaved({"channel": channel_opens, "key_delivery": key_arrives}, repetitions).items():
        _latency(f"handshake/{name}/latency", seconds)


def channel(repetitions: int, size: int) -> None:
    """One message of `size` bytes through memory, into memory that is used again: sending, receiving, both; TLS 1.3 in
    the same way for comparison. `receive_to_new_memory` pays for the pages of each message."""
    message = os.urandom(size)
    key, iv = os.urandom(32), os.urandom(12)
    wire, out = _Wire(size), memoryview(bytearray(size))

    def send() -> None:
        wire.rewind()
        MessageStream(wire, Sealer(key, iv, TO_ENCLAVE), Opener(key, iv, TO_ENCLAVE)).send(message)

    def receive() -> None:
        wire.rewind()
        MessageStream(wire, Sealer(key, iv, TO_ENCLAVE), Opener(key, iv, TO_ENCLAVE)).receive(size)

    def receive_into() -> None:
        wire.rewind()
        MessageStream(wire, Sealer(key, iv, TO_ENCLAVE), Opener(key, iv, TO_ENCLAVE)).receive_into(out)

    def both() -> None:
        send()
        receive_into()

    tls = _TlsPair()
    calls: dict[str, Callable[[], object]] = {
        "send": send,
        "receive": receive_into,
        "receive_to_new_memory": receive,
        "both_ends": both,
        "tls13_both_ends": lambda: tls.transfer(message, out),
    }
    for name, seconds in _interleaved(calls, repetitions).items():
        _throughput(f"channel/{name}/throughput", size, seconds)


def storage(repetitions: int, size: int) -> None:
    """A dataset of `size` bytes written to memory and read back."""
    data, key = os.urandom(size), os.urandom(32)
    file = io.BytesIO()

    out = memoryview(bytearray(size))

    def write() -> None:
        file.seek(0)
        writer = DatasetWriter(file, size, key)
        writer.write(data)
        writer.finish()

    def read() -> None:
        file.seek(0)
        DatasetReader(file, key).read_into(out)

    for name, seconds in _interleaved({"write": write, "read": read}, repetitions).items():
        _throughput(f"storage/{name}/throughput", size, seconds)


def sealing(repetitions: int, _size: int) -> None:
    """State of 64 KiB: sealed, and its version registered in a file (with fsync); opened; keys derived."""
    platform = SimulatedPlatformSecret()
    keys = platform.keys(_MEASUREMENT, _SIGNER, 1, 1, False)
    data = os.urandom(1 << 16)
    with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
        state = SealedState(keys, "benchmark", FileRegister(Path(folder) / "register"))
        kept = {"blob": b""}

        def step() -> None:
            kept["blob"] = state.seal(data)
            state.commit(kept["blob"])

        calls: dict[str, Callable[[], object]] = {
            "seal_and_commit": step,
            "open": lambda: state.open(kept["blob"]),
            "derive_keys": lambda: platform.keys(_MEASUREMENT, _SIGNER, 1, 1, False),
        }
        for name, seconds in _interleaved(calls, repetitions).items():
            _latency(f"sealing/{name}/latency", seconds)


_CASES: dict[str, Callable[[int, int], None]] = {
    "quote": quote,
    "handshake": handshake,
    "channel": channel,
    "storage": storage,
    "sealing": sealing,
}


class _Wire:
    """Memory that keeps what was written; reading it begins after `rewind`."""

    def __init__(self, size: int) -> None:
        self._memory, self._position = memoryview(bytearray(size + (size >> 10) + 4096)), 0

    def rewind(self) -> None:
        self._position = 0

    def write(self, data: Buffer, /) -> int:
        self._memory[self._position : self._position + len(data)] = data
        self._position += len(data)
        return len(data)

    def readinto(self, buffer: memoryview, /) -> int:
        buffer[:] = self._memory[self._position : self._position + len(buffer)]
        self._position += len(buffer)
        return len(buffer)


class _TlsPair:
    """A TLS 1.3 client and server (AES-256-GCM) of the standard library, joined in memory."""

    _PIECE = 1 << 20

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
            certificate = _self_signed(Path(folder))
            server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            server.load_cert_chain(certificate)
            client.load_verify_locations(certificate)
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._wire = to_server
        self._client = client.wrap_bio(to_client, to_server, server_hostname="localhost")
        self._server = server.wrap_bio(to_server, to_client, server_side=True)
        open_ends = [self._client, self._server]
        while open_ends:
            for end in list(open_ends):
                try:
                    end.do_handshake()
                    open_ends.remove(end)
                except ssl.SSLWantReadError:
                    pass
        cipher = self._client.cipher()
        record.versions(openssl=ssl.OPENSSL_VERSION)
        record.note(f"TLS peer: {cipher[1]} {cipher[0]}" if cipher else "TLS peer: no cipher")

    def transfer(self, message: bytes, out: memoryview) -> None:
        received = 0
        for start in range(0, len(message), self._PIECE):
            self._client.write(memoryview(message)[start : start + self._PIECE])
            while self._wire.pending:
                received += int(self._server.read(self._PIECE, out[received:]))  # typed as bytes, a count with a buffer
        assert received == len(message)


def _self_signed(folder: Path) -> Path:
    key, now = generate_private_key(SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


def _interleaved(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of single calls, in turns A B C A B C …; the first turn does not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repetitions + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:
                found[name].append(time.perf_counter() - begin)
    return found


def _latency(name: str, seconds: Sequence[float]) -> None:
    record.samples(name, [1e3 * each for each in seconds], "ms", higher_is_better=False)


def _throughput(name: str, size: int, seconds: Sequence[float]) -> None:
    record.samples(name, [size / each / 1e9 for each in seconds], "GB/s", higher_is_better=True)
