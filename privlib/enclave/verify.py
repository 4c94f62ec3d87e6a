"""Verification of DCAP quotes, real (Intel's root) and simulated alike: `verify_quote`.

The evidence (signatures, certificate chains, revocation, validity, TCB level) is checked by `dcap-qvl`, the verifier in
production use. It returns success for every TCB status but Revoked, so that the decision is the policy's; the status
and its advisories are in every verdict, an error of the policy included. The quote is also read by the parser of
`privlib.enclave.quote`, strictly, and both readings must agree on every claim.
"""

import asyncio
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import dcap_qvl
from cryptography import x509

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.quote import Quote, SgxReport, TdReport, parse_quote
from privlib.enclave.refusals import (
    AttestationError,
    CollateralError,
    DebugError,
    EvidenceError,
    ExpiredError,
    RevokedError,
)

INTEL_ROOT = "Intel SGX Root CA"
MAXIMUM_COLLATERAL_BYTES = 4 << 20
_FETCH_SECONDS = 30.0
_LATEST = 253402300799  # end of the year 9999, as late as a certificate can say
_EXPIRED = ("expired", "in the future", "notvalidyet")


@dataclass(frozen=True)
class VerifiedQuote:
    """What a quote says whose evidence holds under `anchor`; accepted by the policy if `verify_quote` returned it."""

    tee: str  # "SGX" or "TDX"
    measurement: bytes  # MRENCLAVE 32, or MRTD 48
    signer: bytes | None  # MRSIGNER 32; None for TDX
    product_id: int | None  # None for TDX
    svn: int | None  # None for TDX
    report_data: bytes  # 64
    tcb_status: str  # the worse of platform and quoting enclave
    advisories: tuple[str, ...]
    platform_status: str
    quoting_enclave_status: str
    platform: bytes  # PPID of the PCK certificate
    anchor: str  # name and, if it is not Intel's, SHA-256 of the root it was verified under
    verified_at: int  # Unix seconds
    quote: Quote = field(repr=False)  # every field

    @property
    def simulated(self) -> bool:
        """Whether another root than Intel's vouches for it."""
        return self.anchor != INTEL_ROOT


def verify_quote(
    quote: bytes | bytearray | memoryview,
    policy: QuotePolicy,
    collateral: str | None = None,
    now: float | None = None,
) -> VerifiedQuote:
    """Verify a DCAP quote (SGX version 3, TDX version 4) and hold it against `policy`.

    Args:
        quote: the bytes; zeros after it are ignored, for SGX and TDX alike.
        collateral: JSON, as collateral services return it and `SimulatedRoot.collateral` makes it. It is signed under
            the root and needs no trust. Without it, it is fetched from Intel's service (not with PRIVLIB_OFFLINE=1).
        now: time of verification, Unix seconds; the clock's by default.

    Raises:
        QuoteFormatError, CollateralError, EvidenceError (ExpiredError, RevokedError), DebugError, PolicyError (one
        class for each thing a policy names); all are AttestationError, and a PolicyError carries the verdict.
    """
    quote = bytes(quote)
    parsed = parse_quote(quote)
    moment = time.time() if now is None else now
    if not 0 <= moment <= _LATEST:
        raise AttestationError(f"time {moment}: expected Unix seconds")
    seconds = int(moment)
    evidence = _load_collateral(_fetch_collateral(quote, policy) if collateral is None else collateral)
    try:
        if policy.root is None:
            found = dcap_qvl.verify(quote, evidence, seconds)
        else:
            found = dcap_qvl.verify_with_root_ca(quote, evidence, policy.root, seconds)
    except ValueError as error:
        raise _refusal(str(error), seconds) from error
    verdict = _verdict(parsed, json.loads(found.to_json()), policy, seconds)
    policy.check(verdict)
    return verdict


def _load_collateral(text: str) -> Any:
    if len(text) > MAXIMUM_COLLATERAL_BYTES:
        raise CollateralError(f"collateral: {len(text)} characters, at most {MAXIMUM_COLLATERAL_BYTES} are read")
    try:
        return dcap_qvl.QuoteCollateralV3.from_json(text)
    except ValueError as error:
        raise CollateralError(f"collateral: {error}; give the JSON that a collateral service returns") from error


def _fetch_collateral(quote: bytes, policy: QuotePolicy) -> str:
    if policy.root is not None:
        raise CollateralError(
            "give the collateral; no service has any for this root (SimulatedRoot.collateral makes it)"
        )
    if os.environ.get("PRIVLIB_OFFLINE") == "1":
        raise CollateralError("PRIVLIB_OFFLINE=1: give the collateral (--collateral FILE)")

    async def fetch() -> str:
        collateral = await asyncio.wait_for(dcap_qvl.get_collateral_from_pcs(quote), _FETCH_SECONDS)
        return str(collateral.to_json())

    try:
        # A thread of its own, since a notebook's thread already runs an event loop.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(fetch())).result()
    except (ValueError, RuntimeError, TimeoutError, OSError) as error:
        raise CollateralError(f"collateral cannot be fetched: {error}; give it (--collateral FILE)") from error


def _refusal(text: str, seconds: int) -> AttestationError:
    """The library's words under the class they belong to; its version is pinned, unknown words are EvidenceError."""
    what = " ".join(text.removeprefix("Verification failed: ").split())
    lower = what.lower()
    if "debug mode" in lower:
        return DebugError(f"{what}: its memory is open to the host; run a production build")
    if "revoked" in lower:
        return RevokedError(f"{what}: the platform or its TCB is no longer trusted")
    if any(word in lower for word in _EXPIRED):
        return ExpiredError(f"{what}: not valid at time {seconds}; fetch new collateral and a new quote")
    return EvidenceError(f"{what}: the quote does not verify under this root")


def _verdict(quote: Quote, found: dict[str, Any], policy: QuotePolicy, seconds: int) -> VerifiedQuote:
    report = quote.report
    if report.debug or quote.qe_report.debug:
        raise DebugError("debug enclave: its memory is open to the host; run a production build")
    if isinstance(report, TdReport) and report.untrusted_bits:
        raise DebugError("TD attributes: bits 7:1 are set, which makes the domain untrusted")
    _agree(report, found["report"])
    sgx = report if isinstance(report, SgxReport) else None
    return VerifiedQuote(
        tee="SGX" if sgx else "TDX",
        measurement=report.mr_enclave if isinstance(report, SgxReport) else report.mr_td,
        signer=sgx.mr_signer if sgx else None,
        product_id=sgx.isv_prod_id if sgx else None,
        svn=sgx.isv_svn if sgx else None,
        report_data=report.report_data,
        tcb_status=found["status"],
        advisories=tuple(found["advisory_ids"]),
        platform_status=found["platform_status"]["status"],
        quoting_enclave_status=found["qe_status"]["status"],
        platform=bytes.fromhex(found["ppid"]),
        anchor=INTEL_ROOT if policy.root is None else _anchor(policy.root),
        verified_at=seconds,
        quote=quote,
    )


def _agree(report: SgxReport | TdReport, found: dict[str, Any]) -> None:
    """Both readers must have read the same, in every field that this package keeps."""
    (theirs,) = found.values()
    for name, value in vars(report).items():
        pairs = [(f"rt_mr{i}", each) for i, each in enumerate(value)] if name == "rtmr" else [(name, value)]
        for key, ours in pairs:
            if theirs.get(key) != (ours.hex() if isinstance(ours, bytes) else ours):
                raise EvidenceError(f"two readers of the quote disagree on {key}: refused")


def _anchor(der: bytes) -> str:
    names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = str(names[0].value) if names else "unnamed root"
    return f"{name} (SHA-256 {hashlib.sha256(der).hexdigest()})"
