"""Trained parameters with their certificate, and its verification by who has nothing but the file and a root.

What a release claims and what is signed: `privlib.trusted.release`. The host adds what needs no trust: `collateral`,
which is signed under the root, and the image's `manifest`, whose SHA-256 is the measurement where the platform measures
images so. A claim is as good as what it hangs from:

quote            the root's word, under collateral valid at the time of verification
measurement      the quote's; it says which code made the claims, and whether that code is the expected one is for
                 whoever knows its measurement or signer to say (the policy)
program          the enclave's word, and the manifest's where the measurement is its SHA-256
everything else  the enclave's word: signed by its key, which the quote binds together with the claims; ε is computed
                 anew from the ledger, and the model's digest from the parameters
time of issue    the host's clock, so self-asserted
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privlib.enclave.errors import EnclaveError
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.verify import VerifiedQuote, verify_quote
from privlib.errors import PrivlibError
from privlib.files import atomic_path
from privlib.trusted import ledger
from privlib.trusted import release as format
from privlib.trusted.bounded_json import read_json
from privlib.trusted.events import Event
from privlib.trusted.protocol import Message, ProtocolError, decode, encode
from privlib.trusted.terms import Terms

MAXIMUM_BYTES = 1 << 30
_SIGNED = ("claims", "key", "signature", "quote")
_ADDED = ("collateral", "manifest")
_CLAIMS = {"release", "program", "model", "updates", "issued", "datasets"}
_PROGRAM_FILE = "artifact/manifest.json"


class ReleaseError(EnclaveError):
    """A release that is malformed, altered, or claims what does not follow from what it shows."""


@dataclass(frozen=True)
class DatasetClaim:
    """What training has cost a dataset so far. dataset: SHA-256 of its ciphertext; epsilon: of `events` at delta,
    math.inf where they have no bound; ledger_sha256: of its last line, which covers all before it."""

    dataset: str
    terms: Terms
    epsilon: float
    delta: float
    events: tuple[Event, ...]
    ledger_sha256: str


@dataclass(frozen=True)
class VerifiedRelease:
    """A release whose evidence holds. program: SHA-256 of the artifact's manifest; program_in_image: whether the
    measurement covers it, by the image's manifest; model: digest of the parameters; updates: made since the artifact
    was loaded; issued: Unix seconds by the enclave's clock, which is the host's."""

    quote: VerifiedQuote
    program: str
    program_in_image: bool
    model: str
    updates: int
    issued: int
    datasets: tuple[DatasetClaim, ...]
    parameters: Mapping[str, np.ndarray]


class Release:
    """What leaves an enclave after training. parameters: as `TrainingStep.parameters()`; the certificate goes with
    them into a file, by `save`."""

    def __init__(self, answer: Message, collateral: str | None, manifest: str) -> None:
        """answer: the enclave's, of kind "release"."""
        added = {"collateral": (collateral or "").encode(), "manifest": manifest.encode()}
        self._message = Message(
            "release", arrays={**answer.arrays, **{name: np.frombuffer(v, np.uint8) for name, v in added.items()}}
        )

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """By name."""
        return _parameters(self._message)

    @property
    def claims(self) -> dict[str, Any]:
        """As they were signed; `verify_release` says whether they hold."""
        found: dict[str, Any] = read_json(self._message.arrays["claims"].tobytes())
        return found

    def encode(self) -> bytes:
        """The file's bytes."""
        return b"".join(encode(self._message))

    def save(self, path: Path | str) -> Path:
        """Write parameters and certificate to one file, whole or not at all; returns its path."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.encode())
        return Path(path)


def verify_release(
    release: Path | str | bytes, policy: QuotePolicy, now: float | None = None, collateral: str | None = None
) -> VerifiedRelease:
    """Verify a release (a file, or its bytes), offline.

    policy: which root and which enclaves to trust (its report data are filled in here). now: time of verification,
    Unix seconds. collateral: newer than the file's; a file without any has it fetched. Raises AttestationError where
    the quote does not hold under the policy, or was made for other claims; ReleaseError for everything else.
    """
    message = _read(release)
    parts = {name: message.arrays[name].tobytes() for name in (*_SIGNED, *_ADDED)}
    evidence = collateral if collateral is not None else parts["collateral"].decode(errors="replace") or None
    fresh = replace(policy, report_data=format.bound_report_data(parts["key"], parts["claims"]))
    verdict = verify_quote(parts["quote"], fresh, evidence, now)
    try:
        Ed25519PublicKey.from_public_bytes(parts["key"]).verify(parts["signature"], format.signed_text(parts["claims"]))
    except (InvalidSignature, ValueError):
        raise ReleaseError("the claims are not signed by the key that the quote binds: altered, or another's") from None
    parameters = _parameters(message)
    claims = _claims(parts["claims"])
    if claims["model"] != format.model_digest(parameters):
        raise ReleaseError("the parameters are not those that were released: their digest differs")
    return VerifiedRelease(
        quote=verdict,
        program=claims["program"],
        program_in_image=_covers(parts["manifest"], verdict.measurement, claims["program"]),
        model=claims["model"],
        updates=claims["updates"],
        issued=claims["issued"],
        datasets=tuple(_dataset(each) for each in claims["datasets"]),
        parameters=parameters,
    )


def _read(release: Path | str | bytes) -> Message:
    data = release
    if not isinstance(data, bytes):
        path = Path(data)
        try:
            if path.stat().st_size > MAXIMUM_BYTES:
                raise ReleaseError(f"{path} has over {MAXIMUM_BYTES} bytes; no release has")
            data = path.read_bytes()
        except OSError as error:
            raise ReleaseError(f"{path} cannot be read: {error.strerror}") from error
    try:
        message = decode(data)
    except ProtocolError as error:
        raise ReleaseError(f"no release: {error}") from None
    named = {name for name in message.arrays if not name.startswith(format.PARAMETERS)}
    bytes_alone = all(message.arrays[name].dtype == np.uint8 and message.arrays[name].ndim == 1 for name in named)
    if message.kind != "release" or message.fields or named != {*_SIGNED, *_ADDED} or not bytes_alone:
        raise ReleaseError(f"no release: a message {message.kind[:40]!r} with {', '.join(sorted(named))[:200]}")
    return message


def _parameters(message: Message) -> dict[str, np.ndarray]:
    start = len(format.PARAMETERS)
    return {name[start:]: value for name, value in message.arrays.items() if name.startswith(format.PARAMETERS)}


def _claims(text: bytes) -> dict[str, Any]:
    """The claims, in the one form that they may have."""
    try:
        claims = read_json(text)
        if set(claims) != _CLAIMS or format.canonical(claims) != text:
            raise ValueError("another form")
        numbers, names = [claims["updates"], claims["issued"]], [claims["program"], claims["model"]]
        kinds = all(type(each) is int for each in numbers) and all(isinstance(each, str) for each in names)
        if claims["release"] != format.FORMAT or not kinds:
            raise ValueError(f"format {claims['release']!r}")
        if not isinstance(claims["datasets"], list) or not claims["datasets"]:
            raise ValueError("no dataset")
    except (TypeError, ValueError) as error:
        raise ReleaseError(f"the claims are not those of a release of format {format.FORMAT}: {error}") from None
    return claims


def _dataset(claim: Any) -> DatasetClaim:
    """A dataset's claim, which must be what its ledger gives."""
    try:
        terms = Terms.decode(claim["terms"].encode())
        found = ledger.parse("the release's ledger", claim["ledger"].encode())
        expected = format.dataset_claim(str(claim["dataset"]), terms, claim["ledger"].encode())
        epsilon, counted = claim.pop("epsilon"), expected.pop("epsilon")
        # NumPy's sums may differ in their last digits on another machine.
        same = epsilon is None if counted is None else math.isclose(epsilon, counted, rel_tol=1e-9)
    except (AttributeError, KeyError, TypeError, ValueError, PrivlibError) as error:
        raise ReleaseError(f"a dataset's claim is malformed: {error}") from None
    if not same or claim != expected or found.budget != terms.budget or found.torn or found.unfinished:
        raise ReleaseError(f"dataset {expected['dataset'][:16]}…: what is claimed does not follow from its ledger")
    spent = math.inf if counted is None else float(epsilon)
    if terms.epsilon is not None and spent > terms.epsilon * (1 + 1e-9):
        raise ReleaseError(f"dataset {expected['dataset'][:16]}…: ε = {spent} is over its terms' {terms.epsilon}")
    events = tuple(ledger.merged(found.events))
    return DatasetClaim(expected["dataset"], terms, spent, terms.delta, events, found.hashes[-1])


def _covers(manifest: bytes, measurement: bytes, program: str) -> bool:
    """Whether a manifest came along that names this program. Raises ReleaseError for one that is not the measured one,
    or names another program."""
    if not manifest:
        return False  # a platform that measures otherwise
    rows = [line.split(" ", 3) for line in manifest.decode(errors="replace").splitlines()[2:]]
    named = [row[0] for row in rows if len(row) == 4 and row[3] == _PROGRAM_FILE]
    if hashlib.sha256(manifest).digest() != measurement or named != [program]:
        raise ReleaseError("the manifest is not the measured image's, or the program not the one in it")
    return True
