"""Training inside: providers release their datasets, a consumer has a model trained on them, and all of it is charged
before its first step.

A dataset is named by the SHA-256 of its ciphertext. Its provider asks for an offer (a fresh key, bound in a quote to
the provider's nonce), seals the dataset's key to it together with digest and terms, and has the enclave fetch the
ciphertext from the host. Whatever is exchanged on the way does not open.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.delivery import KeyOffer
from privlib.trusted.epoch import TrainRequest, event, run_epoch
from privlib.trusted.examples import Examples, read_examples
from privlib.trusted.host import Host, HostFile
from privlib.trusted.inbox import Inbox
from privlib.trusted.ledger import BudgetError
from privlib.trusted.platform import Platform, own_measurement
from privlib.trusted.protocol import Message
from privlib.trusted.release import ReleaseIssuer
from privlib.trusted.sealed_ledger import SealedLedger
from privlib.trusted.storage import DatasetReader
from privlib.trusted.terms import Terms
from privlib.trusted.training import TrainingStep

PURPOSE = "train"
_MAXIMUM_OFFERS = 64


class ProvisionError(PrivlibError):
    """A dataset that does not come in as its provider released it, or for which there is no room."""


class ConsentError(PrivlibError):
    """A provider has not released its dataset, or not to this client."""


class _Hashing:
    """A source that is hashed as it is read."""

    def __init__(self, source: HostFile) -> None:
        self._source, self.sha256 = source, hashlib.sha256()

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._source.readinto(buffer)
        self.sha256.update(buffer[:count])
        return count


@dataclass(frozen=True)
class _Dataset:
    """A dataset inside: what it holds, and on which terms."""

    images: np.ndarray
    labels: np.ndarray
    terms: Terms
    size: int  # bytes


class TrainingService:
    """State of an enclave that trains."""

    def __init__(self, step: TrainingStep, host: Host, platform: Platform, inbox: Inbox, dataset_bytes: int) -> None:
        self._step, self._host, self._platform, self._inbox = step, host, platform, inbox
        self._dataset_bytes = dataset_bytes
        self._offers: dict[bytes, KeyOffer] = {}
        self._datasets: dict[str, _Dataset] = {}
        self._trained_on: dict[str, Terms] = {}  # whatever has touched the parameters
        self._issuer = ReleaseIssuer(platform)
        self._measurement = b""

    @property
    def rows(self) -> dict[str, int]:
        """Examples of every dataset that is inside."""
        return {name: len(each.labels) for name, each in self._datasets.items()}

    def offer(self, nonce: bytes) -> tuple[bytes, bytes]:
        """(a fresh public key for one delivery, a quote that binds it to the provider's nonce). The oldest of many
        offers that nobody used is withdrawn."""
        self._measurement = self._measurement or own_measurement(self._platform)
        offer = KeyOffer(self._measurement, nonce, PURPOSE)
        quote = self._platform.quote(offer.report_data)
        while len(self._offers) >= _MAXIMUM_OFFERS:
            self._offers.pop(next(iter(self._offers)))
        self._offers[offer.public_key] = offer
        return offer.public_key, quote

    def provision(self, public_key: bytes, sealed_key: bytes, digest: str, terms_text: bytes) -> int:
        """Take a delivered key, and the dataset it opens from the host; returns its number of examples.

        Raises ProvisionError, KeyDeliveryError, TermsError, DatasetError, InputError, HostError.
        """
        if public_key not in self._offers:
            raise ProvisionError("there is no such offer, or it was used or withdrawn; ask for a new one")
        terms = Terms.decode(terms_text)
        key = self._offers[public_key].open(sealed_key, bytes.fromhex(digest), terms_text)
        del self._offers[public_key]
        source = _Hashing(HostFile(self._host, digest))
        reader = DatasetReader(source, key, terms_text)
        held = sum(each.size for name, each in self._datasets.items() if name != digest)
        if held + reader.length > self._dataset_bytes:
            raise ProvisionError(
                f"{reader.length} bytes more than {held} do not fit the image's dataset_bytes, {self._dataset_bytes}"
            )
        plaintext = reader.read()
        if source.sha256.hexdigest() != digest:
            raise ProvisionError("the ciphertext is not the one that the provider released")
        self._datasets[digest] = _Dataset(*read_examples(plaintext, self._step), terms, reader.length)
        return len(self._datasets[digest].labels)

    def train(self, request: TrainRequest, client: bytes | None) -> Message:
        """Charge, train, release.

        Raises ConsentError before anything happens, BudgetError and RollbackError before anything is charged, and what
        the host or the platform cannot do; CancelledError after the charge.
        """
        missing = [name for name in request.datasets if name not in self._datasets]
        if missing:
            raise ConsentError(f"not released yet: {', '.join(missing)}; training waits for all of its providers")
        chosen = {name: self._datasets[name] for name in request.datasets}
        if not all(each.terms.allow(client) for each in chosen.values()):
            raise ConsentError("a provider's terms do not name this client as a consumer; prove an identity of theirs")
        if not all(terms.allow(client) for terms in self._trained_on.values()):
            raise ConsentError("the parameters hold what other consumers had trained; launch an enclave of your own")
        examples = Examples([(each.images, each.labels) for each in chosen.values()])
        charged = event(self._step, examples, request)
        keys = self._platform.sealing_keys()
        terms = self._trained_on | {name: each.terms for name, each in chosen.items()}
        ledgers = {name: SealedLedger(self._host, keys, name, each.budget) for name, each in terms.items()}
        for name in chosen:  # all or none
            if (room := ledgers[name].room(charged)) < request.steps:
                raise BudgetError(
                    f"dataset {name}: {request.steps} steps would pass its terms, ε = {terms[name].epsilon} at "
                    f"δ = {terms[name].delta}; there is room for {room} such steps (more physical_batches cut fewer "
                    "samples, which costs less)"
                )
        for name in chosen:
            ledgers[name].charge(charged)
        self._trained_on = terms
        self._inbox.listen()
        run_epoch(self._step, examples, request, self._inbox.cancelled.is_set)
        return self._issuer.issue(self._step, [(ledgers[name], name, terms[name]) for name in sorted(terms)])


def digest_text(value: object) -> str:
    """A dataset's name from a message. Raises ProvisionError."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= frozenset("0123456789abcdef"):
        raise ProvisionError("a dataset is named by the SHA-256 of its ciphertext, 64 hexadecimal digits")
    return value
