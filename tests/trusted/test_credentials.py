"""Credentials: what holds, and each way in which one does not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted.credentials import (
    CredentialError,
    ExpiredCredential,
    ForgedCredential,
    Issuer,
    RevokedCredential,
    UntrustedIssuer,
    WrongSubject,
    present,
    verified_claims,
)

NOW, GRANT = 1_000_000, b"a grant"
SUBJECT, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ISSUER, OTHER = Issuer(), Issuer()
PUBLIC = SUBJECT.public_key().public_bytes_raw()
GOOD = ISSUER.issue(PUBLIC, {"purpose": "research", "licence": "CC"}, NOW - 1, NOW + 1)
CLASS = OTHER.issue(PUBLIC, {"identity_class": "hospital"}, NOW - 1, NOW + 1)
LISTS = [each.revocations(NOW - 1, NOW + 1) for each in (ISSUER, OTHER)]
TRUSTED = {ISSUER.public_key.hex(): ("purpose", "licence"), OTHER.public_key.hex(): ("identity_class",)}


def claims(credentials: list[str], **changes: Any) -> dict[str, str]:
    asked: dict[str, Any] = {
        "revocations": LISTS, "issuers": TRUSTED, "subject": PUBLIC, "presentation": present(SUBJECT, GRANT),
        "grant": GRANT, "now": NOW,
    } | changes  # fmt: skip
    return verified_claims(credentials, **asked)


def test_claims_of_several_issuers_add_up() -> None:
    assert claims([GOOD, CLASS]) == {"purpose": "research", "licence": "CC", "identity_class": "hospital"}
    assert claims([]) == {}


def changed(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    value = json.loads(text)
    change(value)
    return json.dumps(value)


def promoted(value: dict[str, Any]) -> None:
    value["signed"]["claims"]["purpose"] = "advertising"


REFUSED: dict[str, tuple[Callable[[], object], type[CredentialError]]] = {
    "another claim than was signed": (lambda: claims([changed(GOOD, promoted)]), ForgedCredential),
    "no JSON": (lambda: claims(["{"]), ForgedCredential),
    "deep JSON": (lambda: claims(["[" * 10000]), ForgedCredential),
    "a list in its place": (lambda: claims([LISTS[0]]), ForgedCredential),
    "a credential as a list": (lambda: claims([GOOD], revocations=[GOOD]), ForgedCredential),
    "an issuer nobody trusts": (lambda: claims([GOOD], issuers={}), UntrustedIssuer),
    "an issuer trusted for something else": (
        lambda: claims([GOOD], issuers={ISSUER.public_key.hex(): ("identity_class",)}), UntrustedIssuer,
    ),
    "not valid any more": (lambda: claims([GOOD], now=NOW + 1), ExpiredCredential),
    "not valid yet": (lambda: claims([GOOD], now=NOW - 2), ExpiredCredential),
    "no list of revocations": (lambda: claims([GOOD], revocations=LISTS[1:]), ExpiredCredential),
    "an old list of revocations": (
        lambda: claims([GOOD], revocations=[ISSUER.revocations(NOW - 9, NOW - 1)]), ExpiredCredential,
    ),
    "somebody else's": (
        lambda: claims([GOOD], subject=STRANGER.public_key().public_bytes_raw(),
                       presentation=present(STRANGER, GRANT)), WrongSubject,
    ),
    "presented by somebody else": (lambda: claims([GOOD], presentation=present(STRANGER, GRANT)), ForgedCredential),
    "presented for something else": (lambda: claims([GOOD], grant=b"another grant"), ForgedCredential),
    "two that contradict each other": (
        lambda: claims([GOOD, ISSUER.issue(PUBLIC, {"purpose": "advertising"}, NOW - 1, NOW + 1)]), CredentialError,
    ),
    "an unknown claim": (lambda: ISSUER.issue(PUBLIC, {"colour": "red"}, 0, 1), CredentialError),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_hold_is_refused(name: str) -> None:
    act, error = REFUSED[name]
    with pytest.raises(error):
        act()


def test_what_was_taken_back_does_not_come_again_with_a_second_list() -> None:
    issuer = Issuer()
    credential = issuer.issue(PUBLIC, {"purpose": "research"}, NOW - 1, NOW + 1)
    before, trusted = issuer.revocations(NOW - 1, NOW + 1), {issuer.public_key.hex(): ("purpose",)}
    issuer.revoke(credential)
    after = issuer.revocations(NOW, NOW + 1)
    for lists in ([after], [before, after], [after, before]):
        with pytest.raises(RevokedCredential):
            claims([credential], revocations=lists, issuers=trusted)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.integers(0, len(GOOD) - 1), st.characters())
def test_hostile_texts_are_refused(text: str, at: int, letter: str) -> None:
    for hostile in (text, GOOD[:at] + letter + GOOD[at + 1 :]):
        if hostile == GOOD:
            continue
        with pytest.raises(CredentialError):
            claims([hostile])
