"""Certificates, revocation lists and the SGX extension of the SIMULATED provisioning authority. None of it is Intel's.

The shape follows Intel's "SGX PCK Certificate and Certificate Revocation List Profile Specification": root CA →
platform CA → PCK certificate, root CA → TCB signing certificate, ECDSA P-256 throughout; the PCK certificate carries
extension 1.2.840.113741.1.13.1 (PPID, TCB, PCE-ID, FMSPC, SGX type).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding

ROOT_NAME = "privlib SIMULATED root, NOT INTEL"
CA_NAME = "privlib SIMULATED PCK Platform CA, NOT INTEL"
PCK_NAME = "privlib SIMULATED PCK certificate, NOT INTEL"
TCB_NAME = "privlib SIMULATED TCB signing, NOT INTEL"
_LIFETIME = timedelta(days=3650)
_SGX = b"\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01"  # 1.2.840.113741.1.13.1, DER
_SGX_OID = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_SEQUENCE, _INTEGER, _OCTETS, _OID, _ENUMERATED = 0x30, 0x02, 0x04, 0x06, 0x0A


@dataclass(frozen=True)
class Platform:
    """What a PCK certificate says of its platform: PPID (16 bytes), CPU SVN (16), PCE SVN, PCE-ID (2), FMSPC (6)."""

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes


@dataclass(frozen=True)
class Issuer:
    """A key and its certificate."""

    key: EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def root(now: datetime, name: str = ROOT_NAME) -> Issuer:
    """A new self-signed root."""
    return _issue(name, None, now, path_length=1)


def platform_ca(parent: Issuer, now: datetime) -> Issuer:
    """A new intermediate authority for PCK certificates."""
    return _issue(CA_NAME, parent, now, path_length=0)


def tcb_signer(parent: Issuer, now: datetime) -> Issuer:
    """A new key that signs TCB info and QE identity."""
    return _issue(TCB_NAME, parent, now)


def pck(parent: Issuer, now: datetime, platform: Platform) -> Issuer:
    """A new provisioning certification key for one platform."""
    return _issue(PCK_NAME, parent, now, extension=x509.UnrecognizedExtension(_SGX_OID, sgx_extension(platform)))


def revocation_list(issuer: Issuer, now: datetime, days: int, revoked: Sequence[Issuer] = ()) -> bytes:
    """A list signed by `issuer`, valid from `now` for `days`; DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now)
        .next_update(now + timedelta(days=days))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(_key_identifier(issuer), critical=False)
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder(each.certificate.serial_number, now)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def sgx_extension(platform: Platform) -> bytes:
    """DER value of the SGX extension."""
    components = [
        *(_entry(b"\x02" + bytes([i + 1]), _number(_INTEGER, svn)) for i, svn in enumerate(platform.cpu_svn)),
        _entry(b"\x02\x11", _number(_INTEGER, platform.pce_svn)),
        _entry(b"\x02\x12", _der(_OCTETS, platform.cpu_svn)),
    ]
    return _der(
        _SEQUENCE,
        _entry(b"\x01", _der(_OCTETS, platform.ppid)),
        _entry(b"\x02", _der(_SEQUENCE, *components)),
        _entry(b"\x03", _der(_OCTETS, platform.pce_id)),
        _entry(b"\x04", _der(_OCTETS, platform.fmspc)),
        _entry(b"\x05", _number(_ENUMERATED, 0)),
    )


def _issue(
    name: str,
    parent: Issuer | None,
    now: datetime,
    path_length: int | None = None,
    extension: x509.ExtensionType | None = None,
) -> Issuer:
    """A key with a certificate by `parent` (by itself without one); an authority where path_length is given."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    authority = path_length is not None
    issuer = parent.certificate.subject if parent else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if parent is not None:
        builder = builder.add_extension(_key_identifier(parent), critical=False)
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return Issuer(key, builder.sign(parent.key if parent else key, hashes.SHA256()))


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _key_identifier(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _entry(suffix: bytes, value: bytes) -> bytes:
    return _der(_SEQUENCE, _der(_OID, _SGX + suffix), value)


def _number(tag: int, value: int) -> bytes:
    return _der(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _der(tag: int, *parts: bytes) -> bytes:
    """Tag, length, value; lengths up to 65535."""
    value = b"".join(parts)
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    size = len(value).to_bytes(2, "big").lstrip(b"\0")
    return bytes([tag, 0x80 | len(size)]) + size + value


def now_utc(seconds: float) -> datetime:
    """Unix seconds as the whole second in UTC, as certificates hold it."""
    return datetime.fromtimestamp(int(seconds), UTC)
