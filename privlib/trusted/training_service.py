"""Training inside: providers release their datasets, a consumer has a model trained on them, and all of it is charged
before its first step.

A dataset is named by the SHA-256 of its ciphertext. Its provider asks for an offer (a fresh key, bound in a quote to
the provider's nonce), seals the dataset's key to it together with digest and terms, and has the enclave fetch the
ciphertext from the host. Whatever is exchanged on the way does not open.

A dataset whose terms name a policy comes with a grant, and is trained on for that job alone: by `job`, once, on just
what the grant says. What comes of it leaves sealed (`privlib.trusted.output`), with the job's signature.
"""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.appraisal import appraisal_event, feature_count, noisy_statistics, shapley, utility, weights_of
from privlib.trusted.delivery import KEY_BYTES, KeyOffer
from privlib.trusted.epoch import TrainRequest, event, run_epoch
from privlib.trusted.ethereum import EnclaveAccount, completion_digest, session_report_data
from privlib.trusted.examples import Examples, read_examples
from privlib.trusted.grant import Grant, bound_policy
from privlib.trusted.host import Host, HostFile
from privlib.trusted.inbox import Inbox
from privlib.trusted.ledger import BudgetError
from privlib.trusted.output import seal_output
from privlib.trusted.platform import Platform, own_measurement
from privlib.trusted.protocol import Message, encode
from privlib.trusted.release import ReleaseIssuer
from privlib.trusted.requests import array_of
from privlib.trusted.sealed_ledger import SealedLedger
from privlib.trusted.storage import DatasetReader
from privlib.trusted.terms import Terms
from privlib.trusted.training import TrainingStep

PURPOSE = "train"
_MAXIMUM_OFFERS = 64
_ADDRESS = re.compile("[0-9a-f]{40}")


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
    grant: bytes = b""
    gate: bytes = b""


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
        self._account = EnclaveAccount()
        self._begun: set[str] = set()  # jobs that have, whatever became of them
        self._outputs: dict[str, Message] = {}

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

    def provision(
        self, public_key: bytes, sealed_key: bytes, digest: str, terms_text: bytes, grant_text: bytes = b""
    ) -> int:
        """Take a delivered key, and the dataset it opens from the host; returns its number of examples.

        Raises ProvisionError, KeyDeliveryError, TermsError, GrantError, DatasetError, InputError, HostError.
        """
        if public_key not in self._offers:
            raise ProvisionError("there is no such offer, or it was used or withdrawn; ask for a new one")
        terms = Terms.decode(terms_text)
        if (terms.policy is None) != (not grant_text):
            raise ProvisionError("a dataset comes with a grant if and only if its terms name a policy")
        if grant_text and Grant.decode(grant_text).chain != terms.chain:
            raise ProvisionError("the grant is for another chain than the terms name")
        keys = self._offers[public_key].open(sealed_key, bytes.fromhex(digest), bound_policy(terms_text, grant_text))
        del self._offers[public_key]
        key, gate = keys[:KEY_BYTES], keys[KEY_BYTES:]
        if bool(gate) != bool(grant_text):
            raise ProvisionError("a key of another kind than the terms ask for")
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
        examples = read_examples(plaintext, self._step)
        self._datasets[digest] = _Dataset(*examples, terms, reader.length, grant_text, gate)
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
        if any(each.grant for each in chosen.values()):
            raise ConsentError("a dataset was given for one job of a market; have that job done")
        if self._begun:
            raise ConsentError(
                "the parameters hold the result of a job, which is its consumer's; launch another enclave"
            )
        if not all(each.terms.allow(client) for each in chosen.values()):
            raise ConsentError("a provider's terms do not name this client as a consumer; prove an identity of theirs")
        if not all(terms.allow(client) for terms in self._trained_on.values()):
            raise ConsentError("the parameters hold what other consumers had trained; launch an enclave of your own")
        return self._train(chosen, request)

    def session(self, chain: int, registry: str) -> tuple[str, bytes]:
        """(this enclave's address, a quote that binds it to a chain's attestation registry). Raises ProvisionError."""
        if type(chain) is not int or not 0 < chain < 1 << 63 or not _ADDRESS.fullmatch(registry):
            raise ProvisionError("a session is for a chain's id and its registry's address, 40 hexadecimal digits")
        return self._account.address, self._platform.quote(session_report_data(chain, registry, self._account.address))

    def job(self, job: str) -> Message:
        """Do a job that all its providers have given their data for, once.

        The answer is its output, weights of the providers, and the signature of its completion; the same bytes again
        for a host that lost them. Raises ConsentError before anything happens, and what `train` raises.
        """
        if job in self._outputs:
            return self._outputs[job]
        found = {name: each for name, each in self._datasets.items() if each.grant}
        grants = {each.grant for each in found.values() if Grant.decode(each.grant).job == job}
        if len(grants) != 1:
            raise ConsentError(f"{len(grants)} different grants of this job are here; all providers must give the same")
        text = grants.pop()
        grant = Grant.decode(text)
        missing = [name for name in grant.datasets if name not in found or found[name].grant != text]
        if missing:
            raise ConsentError(f"not given for this job: {', '.join(missing)}; the job waits for all of its providers")
        if job in self._begun or self._trained_on:
            raise ConsentError("this enclave has trained before; a job gets an enclave of its own, once")
        chosen = {name: found[name] for name in grant.datasets}
        request = TrainRequest(grant.datasets, grant.steps, grant.sample_rate, grant.physical_batches)
        self._begun.add(job)
        release = self._train(chosen, request, grant.appraisal_noise)
        weights = self._weights(list(chosen.values()), grant.appraisal_noise)
        gates = {name: each.gate for name, each in chosen.items()}
        file, sealed_key = seal_output(b"".join(encode(release)), grant, gates)
        output = hashlib.sha256(file).digest()
        signed = completion_digest(grant.chain, grant.escrow, job, output, sealed_key, weights)
        arrays = {"file": file, "sealed_key": sealed_key, "signature": self._account.sign(signed)}
        signed_output = {name: array_of(value) for name, value in arrays.items()}
        self._outputs[job] = Message("output", {"weights": weights}, signed_output)
        return self._outputs[job]

    def _weights(self, datasets: list[_Dataset], noise_multiplier: float) -> list[int]:
        """By which a bonus is split among the datasets: their appraised values; zeros where none was granted."""
        if not noise_multiplier:
            return [0] * len(datasets)
        classes = self._step.num_classes
        if classes is None:
            raise ConsentError("only classifiers are appraised; ask for the job without a bonus")
        statistics = [noisy_statistics(each.images, each.labels, classes, noise_multiplier) for each in datasets]
        return weights_of(shapley(lambda members: utility(members, statistics), len(datasets)))

    def _train(self, chosen: dict[str, _Dataset], request: TrainRequest, appraisal_noise: float = 0.0) -> Message:
        """Charge, train, release."""
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
            if appraisal_noise:
                ledgers[name].charge(appraisal_event(appraisal_noise, feature_count(self._step.input_shape)))
        self._trained_on = terms
        self._inbox.listen()
        run_epoch(self._step, examples, request, self._inbox.cancelled.is_set)
        return self._issuer.issue(self._step, [(ledgers[name], name, terms[name]) for name in sorted(terms)])


def digest_text(value: object) -> str:
    """A dataset's name from a message. Raises ProvisionError."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= frozenset("0123456789abcdef"):
        raise ProvisionError("a dataset is named by the SHA-256 of its ciphertext, 64 hexadecimal digits")
    return value
