"""The SIMULATED trust anchor: a root, a platform under it and its quoting enclave, all in software. NOT INTEL.

On real hardware the quoting enclave proves with a key that only the processor's maker could certify. Here the quoting
key lies on the host, outside the worker that plays the enclave, and the launcher states the measurement it took: who
controls the host controls both. A quote from here proves the format, the verifier and the protocol, never the hardware.
Every installation makes a root of its own, so that a verifier trusts only simulated platforms that it was told about;
the root's name is "privlib SIMULATED root, NOT INTEL", and Intel's root refuses its quotes.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privlib.enclave import quote_writer, simulated_pki
from privlib.enclave.refusals import AttestationError
from privlib.enclave.simulated_pki import Issuer, Platform
from privlib.files import cache_dir, create_private
from privlib.trusted.bounded_json import read_json

FILE = "simulated-root.json"
COLLATERAL_DAYS = 30
_FORMAT = 1
_ISSUERS = ("root", "ca", "pck", "tcb")
_QE_SIGNER = hashlib.sha256(b"privlib SIMULATED quoting enclave signer, NOT INTEL").digest()
_QE_MEASUREMENT = hashlib.sha256(b"privlib SIMULATED quoting enclave, NOT INTEL").digest()
_QE_PRODUCT, _QE_SVN = 1, 1
_CPU_SVN, _PCE_SVN = bytes([1] * 8) + bytes(8), 1
_AUTHENTICATION_DATA = bytes(range(32))  # as the reference quoting enclave fills it


@dataclass(frozen=True)
class SimulatedRoot:
    """Keys and certificates of one simulated installation; `load_or_create` keeps them in the cache (mode 0600)."""

    root: Issuer
    ca: Issuer
    pck: Issuer
    tcb: Issuer
    attestation_key: EllipticCurvePrivateKey
    platform: Platform

    @classmethod
    def create(cls, now: float | None = None, name: str = simulated_pki.ROOT_NAME) -> "SimulatedRoot":
        """A new installation with fresh keys; certificates last ten years from `now` (Unix seconds); the root's bears
        `name`."""
        moment = simulated_pki.now_utc(time.time() if now is None else now)
        platform = _platform(secrets.token_bytes(16))
        root = simulated_pki.root(moment, name)
        ca = simulated_pki.platform_ca(root, moment)
        pck = simulated_pki.pck(ca, moment, platform)
        tcb = simulated_pki.tcb_signer(root, moment)
        return cls(root, ca, pck, tcb, generate_private_key(SECP256R1()), platform)

    @classmethod
    def load_or_create(cls, folder: Path | None = None, name: str = simulated_pki.ROOT_NAME) -> "SimulatedRoot":
        """The installation's root: `folder`/simulated-root.json (default: privlib's cache), made on first use.

        Raises AttestationError where that file is not one this version wrote.
        """
        path = (cache_dir("simulated") if folder is None else folder) / FILE
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = create_private(path, json.dumps(cls.create(name=name)._encode(), indent=1))
        try:
            return cls._decode(read_json(text))
        except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
            raise AttestationError(f"{path} is damaged ({error!r}); remove it, and a new root is made") from error

    @property
    def certificate(self) -> bytes:
        """The root's certificate, DER: what a verifier's policy names to accept this installation's quotes."""
        return self.root.der()

    def quote(
        self,
        mr_enclave: bytes,
        mr_signer: bytes,
        isv_prod_id: int,
        isv_svn: int,
        debug: bool,
        report_data: bytes,
    ) -> bytes:
        """A DCAP quote of version 3 over what the launcher says it measured (SIMULATED, see the module's text).

        mr_enclave and mr_signer 32 bytes, isv_prod_id and isv_svn below 2¹⁶, report_data 64 bytes.
        Raises AttestationError for another length or range.
        """
        for name, value, size in (("mr_enclave", mr_enclave, 32), ("mr_signer", mr_signer, 32),
                                  ("report_data", report_data, 64)):  # fmt: skip
            if len(value) != size:
                raise AttestationError(f"{name}: {len(value)} bytes, expected {size}")
        for name, number in (("isv_prod_id", isv_prod_id), ("isv_svn", isv_svn)):
            if not 0 <= number < 1 << 16:
                raise AttestationError(f"{name}: {number}, expected 0 … 65535")
        key = self.attestation_key
        qe_report = quote_writer.report(
            _CPU_SVN,
            _QE_MEASUREMENT,
            _QE_SIGNER,
            _QE_PRODUCT,
            _QE_SVN,
            quote_writer.qe_report_data(key, _AUTHENTICATION_DATA),
            more_flags=quote_writer.PROVISION_KEY,
        )
        signed = quote_writer.header(self.platform.ppid, _QE_SVN, _PCE_SVN) + quote_writer.report(
            _CPU_SVN, mr_enclave, mr_signer, isv_prod_id, isv_svn, report_data, debug=debug
        )
        signature = quote_writer.sign(self.pck.key, qe_report)
        chain = self.pck.pem() + self.ca.pem() + self.root.pem()
        return quote_writer.quote(signed, key, qe_report, signature, _AUTHENTICATION_DATA, chain)

    def collateral(
        self,
        now: float | None = None,
        tcb_status: str = "UpToDate",
        advisories: Sequence[str] = (),
        revoked: Sequence[Issuer] = (),
    ) -> str:
        """Collateral as JSON: revocation lists, TCB info and QE identity, signed, valid from `now` for 30 days.

        tcb_status and advisories are what the TCB info says of this platform; `revoked` certificates (`pck`, `ca`)
        are on the revocation list of whoever issued them.
        """
        seconds = int(time.time() if now is None else now)
        moment = simulated_pki.now_utc(seconds)
        level = {"tcbDate": _date(seconds), "tcbStatus": tcb_status, "advisoryIDs": list(advisories)}
        window = {"issueDate": _date(seconds), "nextUpdate": _date(seconds + COLLATERAL_DAYS * 86400)}
        tcb_info = _json(
            {
                "id": "SGX",
                "version": 3,
                **window,
                "fmspc": self.platform.fmspc.hex().upper(),
                "pceId": self.platform.pce_id.hex().upper(),
                "tcbType": 0,
                "tcbEvaluationDataNumber": 1,
                "tcbLevels": [
                    {"tcb": {"sgxtcbcomponents": [{"svn": svn} for svn in _CPU_SVN], "pcesvn": _PCE_SVN}, **level}
                ],
            }
        )
        qe_level = {"tcb": {"isvsvn": _QE_SVN}, "tcbDate": _date(seconds), "tcbStatus": "UpToDate"}
        qe_identity = _json(
            {
                "id": "QE",
                "version": 2,
                **window,
                "tcbEvaluationDataNumber": 1,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": _QE_SIGNER.hex().upper(),
                "isvprodid": _QE_PRODUCT,
                "tcbLevels": [qe_level],
            }
        )
        signers = (self.tcb.pem() + self.root.pem()).decode()
        by_root = [each for each in revoked if each is not self.pck]
        by_ca = [each for each in revoked if each is self.pck]
        return json.dumps(
            {
                "pck_crl_issuer_chain": (self.ca.pem() + self.root.pem()).decode(),
                "root_ca_crl": simulated_pki.revocation_list(self.root, moment, COLLATERAL_DAYS, by_root).hex(),
                "pck_crl": simulated_pki.revocation_list(self.ca, moment, COLLATERAL_DAYS, by_ca).hex(),
                "tcb_info_issuer_chain": signers,
                "tcb_info": tcb_info,
                "tcb_info_signature": quote_writer.sign(self.tcb.key, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": signers,
                "qe_identity": qe_identity,
                "qe_identity_signature": quote_writer.sign(self.tcb.key, qe_identity.encode()).hex(),
            }
        )

    def _encode(self) -> dict[str, Any]:
        issuers = {
            name: {"key": _key_pem(getattr(self, name).key), "certificate": getattr(self, name).pem().decode()}
            for name in _ISSUERS
        }
        return {
            "what": f"{simulated_pki.ROOT_NAME}: keys that vouch for simulated enclaves of this installation only",
            "format": _FORMAT,
            "attestation_key": _key_pem(self.attestation_key),
            "ppid": self.platform.ppid.hex(),
            **issuers,
        }

    @classmethod
    def _decode(cls, data: dict[str, Any]) -> "SimulatedRoot":
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r}")
        issuers = {
            name: Issuer(
                _load_key(data[name]["key"]), x509.load_pem_x509_certificate(data[name]["certificate"].encode())
            )
            for name in _ISSUERS
        }
        platform = _platform(bytes.fromhex(data["ppid"]))
        return cls(**issuers, attestation_key=_load_key(data["attestation_key"]), platform=platform)


def _platform(ppid: bytes) -> Platform:
    return Platform(ppid, _CPU_SVN, _PCE_SVN, pce_id=bytes(2), fmspc=b"SIMUL\0")


def _key_pem(key: EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _load_key(text: str) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(text.encode(), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")
    return key


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _date(seconds: int) -> str:
    return simulated_pki.now_utc(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
