"""Credentials: what an issuer says of a consumer, signed; and their presentation for one grant.

    credential     Ed25519 by the issuer over "privlib credential v1" ‖ canonical JSON {id, issuer, subject, claims,
                   issued, expires}
    revocations    Ed25519 by the issuer over "privlib revocations v1" ‖ canonical JSON {issuer, ids, issued, expires}
    presentation   Ed25519 by the subject over "privlib presentation v1" ‖ grant: the subject wants this job

Subject and issuer are Ed25519 keys, times Unix seconds. Claims are texts by name, of CLAIMS. An issuer without a
current list of revocations counts for nothing: silence must not make a revoked credential good again. The shape follows
W3C Verifiable Credentials 2.0 (issuer, subject, validity, status), without its JSON-LD.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privlib.errors import PrivlibError
from privlib.trusted.binding import encode
from privlib.trusted.bounded_json import read_json

CLAIMS = ("purpose", "identity_class", "licence")
_CREDENTIAL, _REVOCATIONS, _PRESENTATION = (
    f"privlib {what} v1".encode() for what in ("credential", "revocations", "presentation")
)
_LARGEST = 16 << 10
_FORMS = {
    _CREDENTIAL: {"id": str, "issuer": str, "subject": str, "claims": dict, "issued": int, "expires": int},
    _REVOCATIONS: {"issuer": str, "ids": list, "issued": int, "expires": int},
}


class CredentialError(PrivlibError):
    """Base: a credential that does not count; get another one from its issuer."""


class ForgedCredential(CredentialError):
    """Not signed by the issuer or subject that it names, or altered."""


class UntrustedIssuer(CredentialError):
    """From an issuer whom the provider does not trust for this claim."""


class ExpiredCredential(CredentialError):
    """Not valid at this time, or its issuer's list of revocations is not."""


class RevokedCredential(CredentialError):
    """Taken back by its issuer."""


class WrongSubject(CredentialError):
    """Issued to somebody else than who presents it."""


class Issuer:
    """Whoever vouches for consumers. key: None for a new one."""

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self._key = key or Ed25519PrivateKey.generate()
        self._revoked: list[str] = []

    @property
    def public_key(self) -> bytes:
        """Ed25519, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def issue(self, subject: bytes, claims: Mapping[str, str], issued: int, expires: int) -> str:
        """A credential, as text. subject: Ed25519 public key. Raises CredentialError for an unknown claim."""
        if not claims or any(name not in CLAIMS or not isinstance(text, str) for name, text in claims.items()):
            raise CredentialError(f"claims are texts, named {', '.join(CLAIMS)}")
        value = {"id": secrets.token_hex(16), "issuer": self.public_key.hex(), "subject": subject.hex(),
                 "claims": dict(claims), "issued": issued, "expires": expires}  # fmt: skip
        return self._signed(_CREDENTIAL, value)

    def revoke(self, credential: str) -> None:
        """Take a credential back; `revocations` says so from now on."""
        self._revoked.append(str(json.loads(credential)["signed"]["id"]))

    def revocations(self, issued: int, expires: int) -> str:
        """The list of what was taken back, valid from `issued` until `expires`."""
        value = {"issuer": self.public_key.hex(), "ids": sorted(self._revoked), "issued": issued, "expires": expires}
        return self._signed(_REVOCATIONS, value)

    def _signed(self, label: bytes, value: dict[str, Any]) -> str:
        signature = self._key.sign(encode(label, (_canonical(value),))).hex()
        return _canonical({"signed": value, "signature": signature}).decode()


def present(subject: Ed25519PrivateKey, grant: bytes) -> bytes:
    """The subject's word that it wants this grant's job, 64 bytes."""
    return subject.sign(encode(_PRESENTATION, (grant,)))


def verified_claims(
    credentials: Iterable[str],
    revocations: Iterable[str],
    issuers: Mapping[str, Iterable[str]],
    subject: bytes,
    presentation: bytes,
    grant: bytes,
    now: int,
) -> dict[str, str]:
    """The claims of credentials that hold at `now`. issuers: whom the provider trusts, public keys in hexadecimal, for
    which claims; subject: who presents them, 32 bytes. Any credential that does not hold is an error, not left out.

    Raises ForgedCredential, UntrustedIssuer, ExpiredCredential, RevokedCredential, WrongSubject.
    """
    _verify(subject.hex(), presentation, encode(_PRESENTATION, (grant,)))
    lists = [_opened(text, _REVOCATIONS) for text in revocations]
    claims: dict[str, str] = {}
    for text in credentials:
        found = _opened(text, _CREDENTIAL)
        issuer = found["issuer"]
        if not set(found["claims"]) <= set(issuers.get(issuer, ())):
            raise UntrustedIssuer(f"issuer {issuer[:16]}… is not trusted for {', '.join(found['claims'])}")
        if found["subject"] != subject.hex():
            raise WrongSubject("the credential was issued to another key; present your own")
        if not found["issued"] <= now < found["expires"]:
            raise ExpiredCredential(f"the credential is valid from {found['issued']} to {found['expires']}, not {now}")
        current = [each for each in lists if each["issuer"] == issuer and each["issued"] <= now < each["expires"]]
        if not current:
            raise ExpiredCredential(f"there is no current list of revocations from issuer {issuer[:16]}…; fetch one")
        if any(found["id"] in each["ids"] for each in current):
            raise RevokedCredential("the issuer has taken this credential back")
        for name, claim in found["claims"].items():
            if claims.setdefault(name, claim) != claim:
                raise CredentialError(f"two credentials claim different things of {name}; present one")
    return claims


def _opened(text: str, label: bytes) -> dict[str, Any]:
    if len(text) > _LARGEST:
        raise ForgedCredential(f"no credential: {len(text)} characters, at most {_LARGEST} are read")
    try:
        value = read_json(text)
        signed, signature = value["signed"], bytes.fromhex(value["signature"])
        form = _FORMS[label]
        if set(signed) != set(form) or any(type(signed[name]) is not kind for name, kind in form.items()):
            raise ValueError("another form")
        if label == _CREDENTIAL and not all(name in CLAIMS and isinstance(each, str)
                                            for name, each in signed["claims"].items()):  # fmt: skip
            raise ValueError("another claim")
        text_signed = encode(label, (_canonical(signed),))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ForgedCredential(f"no credential: {error}") from None
    _verify(signed["issuer"], signature, text_signed)
    found: dict[str, Any] = signed
    return found


def _verify(key: str, signature: bytes, text: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, text)
    except (InvalidSignature, ValueError):
        raise ForgedCredential(f"not signed by {key[:16]}…, or altered") from None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
