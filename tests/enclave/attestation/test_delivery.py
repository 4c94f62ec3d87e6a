"""A delivered key opens in the attested enclave, once, for what it was sealed for, and nowhere else."""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.enclave.delivery import deliver_key
from privlib.enclave.refusals import DebugError, EvidenceError, FreshnessError, MeasurementError, TcbStatusError
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.errors import PrivlibError
from privlib.trusted.channel_errors import KeyDeliveryError, ReplayError
from privlib.trusted.delivery import MAGIC, SEALED_BYTES, KeyOffer
from tests.enclave.attestation.conftest import MEASUREMENT, NOW, SIGNER, Evidence

KEY = bytes(range(100, 132))


@dataclass
class Delivery:
    """One delivery, with everything an attacker or a mistaken party may exchange."""

    evidence: Evidence
    root: SimulatedRoot
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    measurement: bytes = MEASUREMENT
    debug: bool = False
    purpose: str = "train"
    offered: bytes = b""
    quoted: bytes = b""
    key: bytes = KEY

    def __post_init__(self) -> None:
        self.offer = KeyOffer(self.measurement, self.nonce, self.purpose)

    def seal(self, **changes: object) -> bytes:
        quote = self.quoted or self.root.quote(self.measurement, SIGNER, 7, 3, self.debug, self.offer.report_data)
        arguments: dict[str, object] = {
            "key": self.key,
            "public_key": self.offered or self.offer.public_key,
            "quote": quote,
            "nonce": self.nonce,
            "policy": self.evidence.policy,
            "purpose": "train",
            "dataset": b"cifar",
            "dataset_policy": b"terms",
            "collateral": self.evidence.collateral,
            "now": NOW,
            **changes,
        }
        return deliver_key(**arguments)[0]  # type: ignore[arg-type]  # one changed at a time


@pytest.fixture
def delivery(simulated: Evidence, simulated_root: SimulatedRoot) -> Delivery:
    return Delivery(simulated, simulated_root)


def test_the_key_arrives(delivery: Delivery) -> None:
    sealed = delivery.seal()
    assert len(sealed) == SEALED_BYTES and KEY not in sealed
    assert delivery.offer.open(sealed, b"cifar", b"terms") == KEY


def extract(salt: bytes, suite: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labelled).derive(key)


def test_a_sealed_key_is_what_rfc_9180_says(delivery: Delivery) -> None:
    """Opened once more by the RFC's own steps (sections 4.1 and 5.1, base mode), with `info` spelled out here."""
    sealed = delivery.seal()
    assert delivery.offer._key is not None
    encapsulated, ciphertext = sealed[4:36], sealed[36:]
    shared = delivery.offer._key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    kem, suite = b"KEM" + b"\0\x20", b"HPKE" + b"\0\x20" + b"\0\1" + b"\0\2"
    secret = expand(extract(b"", kem, b"eae_prk", shared), kem, b"shared_secret",
                    encapsulated + delivery.offer.public_key, 32)  # fmt: skip
    fields = (MEASUREMENT, b"train", delivery.nonce, b"cifar", b"terms")
    info = b"privlib key delivery v1" + b"".join(len(each).to_bytes(4, "big") + each for each in fields)
    context = b"\0" + extract(b"", suite, b"psk_id_hash", b"") + extract(b"", suite, b"info_hash", info)
    schedule = extract(secret, suite, b"secret", b"")
    key, nonce = (expand(schedule, suite, label, context, size) for label, size in ((b"key", 32), (b"base_nonce", 12)))
    assert AESGCM(key).decrypt(nonce, ciphertext, b"") == KEY


def test_a_key_arrives_once(delivery: Delivery) -> None:
    sealed = delivery.seal()
    delivery.offer.open(sealed, b"cifar", b"terms")
    with pytest.raises(ReplayError):
        delivery.offer.open(sealed, b"cifar", b"terms")


@pytest.mark.parametrize(
    ("dataset", "policy"), [(b"other", b"terms"), (b"cifar", b"other"), (b"cifar", b""), (b"cifart", b"erms")]
)
def test_a_key_opens_for_its_dataset_and_policy_alone(delivery: Delivery, dataset: bytes, policy: bytes) -> None:
    sealed = delivery.seal()
    with pytest.raises(KeyDeliveryError, match="not for this enclave"):
        delivery.offer.open(sealed, dataset, policy)
    assert delivery.offer.open(sealed, b"cifar", b"terms") == KEY


OPENING_ATTACKS: dict[str, Callable[[Delivery], tuple[KeyOffer, bytes]]] = {
    "replayed to the enclave's next offer": lambda d: (KeyOffer(MEASUREMENT, d.nonce, "train"), d.seal()),
    "opened under another measurement": lambda d: (moved(d, measurement=bytes(32)), d.seal()),
    "opened for another nonce": lambda d: (moved(d, nonce=bytes(32)), d.seal()),
    "opened for another purpose": lambda d: (moved(d, purpose="infer"), d.seal()),
    "cut short": lambda d: (d.offer, d.seal()[:-1]),
    "lengthened": lambda d: (d.offer, d.seal() + b"\0"),
    "of another format": lambda d: (d.offer, b"PLK2" + d.seal()[4:]),
    "with its encapsulation zeroed": lambda d: (d.offer, MAGIC + bytes(32) + d.seal()[36:]),
    "with a bit of its tag flipped": lambda d: (d.offer, d.seal()[:-1] + bytes([d.seal()[-1] ^ 1])),
}


def moved(delivery: Delivery, **changes: object) -> KeyOffer:
    """An offer of the same key in another context: what an enclave would have to be to misuse it."""
    given_context: dict[str, object] = {
        "measurement": MEASUREMENT,
        "nonce": delivery.nonce,
        "purpose": "train",
        **changes,
    }
    offer = KeyOffer(**given_context)  # type: ignore[arg-type]  # one changed at a time
    offer._key = delivery.offer._key
    return offer


@pytest.mark.parametrize("name", OPENING_ATTACKS)
def test_a_sealed_key_does_not_open(name: str, delivery: Delivery) -> None:
    offer, sealed = OPENING_ATTACKS[name](delivery)
    with pytest.raises(KeyDeliveryError):
        offer.open(sealed, b"cifar", b"terms")


SEALING_ATTACKS: dict[str, tuple[Callable[[Delivery], Delivery], type[PrivlibError]]] = {
    "the host offers a key of its own": (
        lambda d: replace(d, offered=X25519PrivateKey.generate().public_key().public_bytes_raw()), FreshnessError),
    "an offer made for another provider's nonce": (
        lambda d: replace(d, quoted=d.root.quote(MEASUREMENT, SIGNER, 7, 3, False,
                                                 KeyOffer(MEASUREMENT, bytes(32), "train").report_data)),
        FreshnessError),
    "an offer made for another purpose": (lambda d: replace(d, purpose="infer"), FreshnessError),
    "another enclave": (lambda d: replace(d, measurement=bytes(32)), MeasurementError),
    "a debug enclave": (lambda d: replace(d, debug=True), DebugError),
    "a platform that is out of date": (
        lambda d: replace(d, evidence=replace(d.evidence, collateral=d.root.collateral(NOW, "OutOfDate"))),
        TcbStatusError),
    "another root": (
        lambda d: replace(d, root=SimulatedRoot.create(NOW)), EvidenceError),
    "a short key": (lambda d: replace(d, key=b"short"), KeyDeliveryError),
}  # fmt: skip


@pytest.mark.parametrize("name", SEALING_ATTACKS)
def test_no_key_is_sealed(name: str, delivery: Delivery) -> None:
    attack, error = SEALING_ATTACKS[name]
    with pytest.raises(PrivlibError) as refused:
        attack(delivery).seal()
    assert type(refused.value) is error, refused.value


def test_an_offered_key_of_small_order_is_refused(delivery: Delivery) -> None:
    offer = KeyOffer(MEASUREMENT, delivery.nonce, "train")
    offer.public_key = bytes(32)
    report = delivery.evidence.policy.fresh(bytes(32), delivery.nonce, "privlib key delivery: train").report_data
    assert report is not None
    quote = delivery.root.quote(MEASUREMENT, SIGNER, 7, 3, False, report)
    with pytest.raises(KeyDeliveryError, match="not usable"):
        delivery.seal(public_key=bytes(32), quote=quote)


def test_a_nonce_of_another_size_is_refused() -> None:
    with pytest.raises(KeyDeliveryError, match="expected 32"):
        KeyOffer(MEASUREMENT, b"short", "train")


OFFER = KeyOffer(MEASUREMENT, bytes(32), "train")


def never_opens(data: bytes) -> None:
    with pytest.raises(KeyDeliveryError):
        OFFER.open(data, b"cifar", b"terms")


hostile = st.one_of(st.binary(max_size=120), st.binary(min_size=80, max_size=80).map(lambda tail: MAGIC + tail))


@given(hostile)
@settings(max_examples=200, deadline=None)
def test_hostile_bytes_never_open(data: bytes) -> None:
    never_opens(data)


@pytest.mark.soak
@given(hostile)
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_keys_never_open(data: bytes) -> None:
    never_opens(data)
