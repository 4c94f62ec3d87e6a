"""Releases: verified by who has the file and the root, and refused for any change of any claim."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.enclave.image import EnclaveImage
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import AttestationError, EvidenceError, ExpiredError, FreshnessError, MeasurementError
from privlib.enclave.release import Release, ReleaseError, verify_release
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.errors import PrivlibError
from privlib.trusted import release as format
from privlib.trusted.ledger import line_of
from privlib.trusted.protocol import Message, decode, encode
from privlib.trusted.terms import Terms


def rebuilt(release: Release, **arrays: bytes | np.ndarray | None) -> bytes:
    """The file with other arrays (None: without)."""
    kept: dict[str, Any] = {
        **decode(release.encode()).arrays,
        **{name.replace("__", "/"): v for name, v in arrays.items()},
    }
    found = {
        name: np.frombuffer(v, np.uint8) if isinstance(v, bytes) else v for name, v in kept.items() if v is not None
    }
    return b"".join(encode(Message("release", arrays=found)))


def test_it_is_verified_from_its_file(issued: Release, training_policy: QuotePolicy, tmp_path: Path) -> None:
    found = verify_release(issued.save(tmp_path / "model.release"), training_policy)
    assert found.updates == 3 and found.quote.simulated and found.program_in_image
    for name, value in issued.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value)
    (claim,) = found.datasets
    assert [event.steps for event in claim.events] == [3] and claim.epsilon <= 8.0 == claim.terms.epsilon


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every single value in a claim stands."""
    if isinstance(value, dict):
        return [path for key, each in value.items() for path in paths(each, (*so_far, key))]
    if isinstance(value, list):
        return [path for index, each in enumerate(value) for path in paths(each, (*so_far, index))]
    return [so_far]


def changed(value: Any) -> Any:
    if isinstance(value, str):
        return ("0" if value[0] != "0" else "1") + value[1:]
    return value * 2 + 1


FIELDS = [("release",), ("program",), ("model",), ("updates",), ("issued",)]
OF_A_DATASET = ["dataset", "terms", "epsilon", "delta", "ledger", "ledger_sha256"]
CLAIMS = [*FIELDS, *(("datasets", 0, name) for name in OF_A_DATASET)]


def test_these_are_all_claims(issued: Release) -> None:
    assert sorted(map(str, paths(issued.claims))) == sorted(map(str, CLAIMS))


def edited(release: Release, path: tuple[Any, ...]) -> bytes:
    claims = release.claims
    target = claims
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = changed(target[path[-1]])
    return format.canonical(claims)


@pytest.mark.parametrize("path", CLAIMS, ids=str)
def test_any_claim_that_is_changed_is_refused(
    path: tuple[Any, ...], issued: Release, training_policy: QuotePolicy
) -> None:
    """As it is, and signed anew by whoever changed it: the quote binds key and claims."""
    claims = edited(issued, path)
    with pytest.raises(FreshnessError):
        verify_release(rebuilt(issued, claims=claims), training_policy)
    own = Ed25519PrivateKey.generate()
    signed = rebuilt(
        issued,
        claims=claims,
        key=own.public_key().public_bytes_raw(),
        signature=own.sign(format.signed_text(claims)),
    )
    with pytest.raises(FreshnessError):
        verify_release(signed, training_policy)


PARTS = ["claims", "key", "signature", "quote", "collateral", "manifest"]


@pytest.mark.parametrize("name", PARTS)
def test_any_part_that_is_changed_is_refused_or_changes_no_claim(
    name: str, issued: Release, training_policy: QuotePolicy
) -> None:
    """Spaces around the certificates of quote and collateral say nothing; every other part is refused with any bit
    changed."""
    data = decode(issued.encode()).arrays[name]
    whole = name in ("claims", "key", "signature", "manifest")
    for at in np.linspace(0, len(data) - 1, 40).astype(int):
        other = data.copy()
        other[at] ^= 1
        try:
            found = verify_release(rebuilt(issued, **{name: other}), training_policy)
        except (ReleaseError, AttestationError):
            continue
        assert not whole and found.model == issued.claims["model"] and found.quote.tcb_status == "UpToDate"
        assert found.quote.measurement in training_policy.measurements


@pytest.mark.parametrize("name", PARTS)
def test_any_part_that_is_missing_is_refused(name: str, issued: Release, training_policy: QuotePolicy) -> None:
    with pytest.raises(ReleaseError, match="no release"):
        verify_release(rebuilt(issued, **{name: None}), training_policy)


def test_any_parameter_that_is_changed_exchanged_or_missing_is_refused(
    issued: Release, training_policy: QuotePolicy
) -> None:
    for name, value in issued.parameters.items():
        other = value.copy()
        other.reshape(-1).view(np.uint8)[-1] ^= 1
        for each in (other, value.reshape(-1)[None], None):
            with pytest.raises(ReleaseError, match="parameters are not those"):
                verify_release(rebuilt(issued, **{format.PARAMETERS + name: each}), training_policy)
    with pytest.raises(ReleaseError, match="parameters are not those"):
        verify_release(rebuilt(issued, **{format.PARAMETERS + "more": np.zeros(3)}), training_policy)


def test_evidence_that_hangs_from_nothing_known_is_refused(
    issued: Release, training_policy: QuotePolicy, training_image: EnclaveImage
) -> None:
    """All of it made anew, consistent with itself, by somebody with a root of its own; and Intel vouches for none."""
    forger = SimulatedRoot.create()
    forged = sworn(forger, training_image, issued, issued.claims, forger.collateral())
    own = QuotePolicy(measurements=training_policy.measurements, root=forger.certificate)
    assert verify_release(forged, own).updates == 3
    with pytest.raises(EvidenceError):
        verify_release(forged, training_policy)
    with pytest.raises(EvidenceError):
        verify_release(issued.encode(), QuotePolicy(any_enclave=True))


def test_another_enclave_or_time_than_asked_for_is_refused(issued: Release, root: SimulatedRoot) -> None:
    policy = QuotePolicy(measurements=frozenset({bytes(32)}), root=root.certificate)
    with pytest.raises(MeasurementError):
        verify_release(issued.encode(), policy)
    with pytest.raises(ExpiredError):
        verify_release(
            issued.encode(), QuotePolicy(any_enclave=True, root=root.certificate), now=issued.claims["issued"] + 1e8
        )


def sworn(
    root: SimulatedRoot, image: EnclaveImage, like: Release, claims: dict[str, Any], collateral: str | None = None
) -> bytes:
    """A release of an enclave that lies: everything it claims is signed and quoted."""
    key, text = Ed25519PrivateKey.generate(), format.canonical(claims)
    public = key.public_key().public_bytes_raw()
    data = format.bound_report_data(public, text)
    quote = root.quote(image.measurement, image.signature.mr_signer, 1, 1, False, data)
    parts: dict[str, Any] = {
        "claims": text,
        "key": public,
        "signature": key.sign(format.signed_text(text)),
        "quote": quote,
    }
    if collateral is not None:
        parts["collateral"] = collateral.encode()
    return rebuilt(like, **parts)


def dataset(claims: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**claims, "datasets": [{**claims["datasets"][0], **values}]}


def shortened(claims: dict[str, Any]) -> dict[str, Any]:
    """The last epoch left out of the ledger, and of the ε."""
    text = "".join(claims["datasets"][0]["ledger"].splitlines(keepends=True)[:-1])
    return dataset(claims, ledger=text)


def overspent(claims: dict[str, Any]) -> dict[str, Any]:
    """An honest account of what the terms forbid."""
    lines = claims["datasets"][0]["ledger"].splitlines(keepends=True)
    record = json.loads(lines[-1].split(" ", 1)[1])
    record["event"]["steps"] = 1000
    more = "".join([*lines, line_of(record, lines[-1][:64])[0].decode()])
    terms = Terms.decode(claims["datasets"][0]["terms"].encode())
    claim = format.dataset_claim(claims["datasets"][0]["dataset"], terms, more.encode())
    return {**claims, "datasets": [claim]}


LIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a smaller ε": lambda claims: dataset(claims, epsilon=0.1),
    "no ε": lambda claims: dataset(claims, epsilon=None),
    "another δ": lambda claims: dataset(claims, delta=1e-3),
    "other terms": lambda claims: dataset(claims, terms=Terms(1e6).encode().decode()),
    "terms that are none": lambda claims: dataset(claims, terms="as you like"),
    "a ledger that is none": lambda claims: dataset(claims, ledger="nothing spent"),
    "another ledger's digest": lambda claims: dataset(claims, ledger_sha256="0" * 64),
    "a shortened ledger": shortened,
    "more than the terms allow": overspent,
    "a claim more": lambda claims: dataset(claims, also="trusted"),
    "a dataset without a name": lambda claims: dataset(claims, dataset=None),
    "no dataset": lambda claims: {**claims, "datasets": []},
    "datasets in a text": lambda claims: {**claims, "datasets": "none"},
    "a dataset that is a number": lambda claims: {**claims, "datasets": [1]},
    "another model": lambda claims: {**claims, "model": "0" * 64},
    "another program": lambda claims: {**claims, "program": "0" * 64},
    "a program without a name": lambda claims: {**claims, "program": 0},
    "updates that are true": lambda claims: {**claims, "updates": True},
    "another format": lambda claims: {**claims, "release": 2},
    "one field more": lambda claims: {**claims, "note": "approved"},
}


@pytest.mark.parametrize("name", LIES)
def test_what_an_enclave_claims_must_follow_from_what_it_shows(
    name: str, issued: Release, training_policy: QuotePolicy, training_image: EnclaveImage, root: SimulatedRoot
) -> None:
    assert verify_release(sworn(root, training_image, issued, issued.claims), training_policy).updates == 3
    with pytest.raises(ReleaseError):
        verify_release(sworn(root, training_image, issued, LIES[name](issued.claims)), training_policy)


@st.composite
def hostile(draw: st.DrawFn) -> tuple[int, int, bytes]:
    return draw(st.integers(0, 1 << 20)), draw(st.sampled_from((0, 1, 2, 60))), draw(st.binary(max_size=4))


def unchanged_or_refused(release: Release, policy: QuotePolicy, edit: tuple[int, int, bytes]) -> None:
    data = bytearray(release.encode())
    at, cut, put = edit
    at %= len(data)
    data[at : at + cut] = put
    try:
        found = verify_release(bytes(data), policy)
    except PrivlibError:
        return
    # JSON has more than one text for a head; what is claimed is the same.
    assert found.model == release.claims["model"] and found.updates == release.claims["updates"]


@given(edit=hostile())
@settings(max_examples=100, deadline=None)
def test_hostile_files_are_refused_or_say_the_same(
    issued: Release, training_policy: QuotePolicy, edit: tuple[int, int, bytes]
) -> None:
    unchanged_or_refused(issued, training_policy, edit)


@pytest.mark.soak
@given(edit=hostile())
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_files_are_refused_or_say_the_same(
    issued: Release, training_policy: QuotePolicy, edit: tuple[int, int, bytes]
) -> None:
    unchanged_or_refused(issued, training_policy, edit)
