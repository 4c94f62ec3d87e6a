"""`privlib verify-quote`: what a quote claims, line by line, and whether it is accepted."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from privlib.suite.errors import ParameterError

if TYPE_CHECKING:
    from privlib.enclave.policy import QuotePolicy
    from privlib.enclave.verify import VerifiedQuote


def verify(options: argparse.Namespace) -> int:
    """Print the verdict; 0 when the quote is accepted.

    Raises AttestationError when it is refused (after its claims, where the evidence holds), ParameterError for options
    and files that cannot be read.
    """
    from privlib.enclave.refusals import PolicyError
    from privlib.enclave.verify import verify_quote

    asked = policy(options)
    quote = _quote(_read(options.file))
    try:
        verdict = verify_quote(quote, asked, collateral(options), options.time)
    except PolicyError as error:
        if error.verdict is not None:
            print(text(error.verdict, asked))
            print(f"{'verdict':<14}REFUSED")
        raise
    print(text(verdict, asked))
    print(f"{'verdict':<14}accepted")
    return 0


def text(verdict: "VerifiedQuote", policy: "QuotePolicy") -> str:
    """The claims of a quote whose evidence holds, one a line, and for each whether the policy compared it."""

    def compared(asked: object) -> str:
        return "as asked" if asked else "not compared"

    lines = {
        "quote": f"{verdict.tee}, version {verdict.quote.header.version}",
        "trust anchor": verdict.anchor + (" — no hardware vouches for this enclave" if verdict.simulated else ""),
        "verified for": f"{datetime.fromtimestamp(verdict.verified_at, UTC):%Y-%m-%d %H:%M:%S} UTC",
        "TCB status": f"{verdict.tcb_status} (platform {verdict.platform_status}, "
        f"quoting enclave {verdict.quoting_enclave_status})",
        "advisories": ", ".join(verdict.advisories) or "none",
        "measurement": f"{verdict.measurement.hex()} ({compared(policy.measurements)})",
    }
    if verdict.signer is not None:
        lines["signer"] = f"{verdict.signer.hex()} ({compared(policy.signers)})"
        lines["product"] = f"{verdict.product_id} ({compared(policy.product_id is not None)})"
        lines["SVN"] = f"{verdict.svn} (at least {policy.minimum_svn} asked)"
    lines["debug"] = "no"
    lines["report data"] = f"{verdict.report_data.hex()} ({compared(policy.report_data)})"
    lines["platform"] = f"PPID {verdict.platform.hex()} ({compared(policy.platforms is not None)})"
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def policy(options: argparse.Namespace) -> "QuotePolicy":
    """What the options accept."""
    from privlib.enclave.policy import QuotePolicy

    return QuotePolicy(
        measurements=frozenset(_bytes("--measurement", each) for each in options.measurement),
        signers=frozenset(_bytes("--signer", each) for each in options.signer),
        any_enclave=not (options.measurement or options.signer),
        product_id=options.product,
        minimum_svn=options.minimum_svn,
        tcb_statuses=frozenset({"UpToDate", *options.accept_status}),
        report_data=_bytes("--report-data", options.report_data) if getattr(options, "report_data", None) else None,
        platforms=frozenset(_bytes("--platform", each) for each in options.platform) if options.platform else None,
        root=None if options.root is None else _certificate(options.root),
    )


def collateral(options: argparse.Namespace) -> str | None:
    """The text of --collateral, or None."""
    return None if options.collateral is None else _read(options.collateral).decode("utf-8", errors="replace")


def _certificate(path: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = _read(path)
    try:
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    except ValueError:
        return data


def _quote(data: bytes) -> bytes:
    """Bytes, or the bytes that hexadecimal text spells (a quote begins with a byte that is no such text)."""
    try:
        return bytes.fromhex(data.decode("ascii"))
    except ValueError:
        return data


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}") from error


def _bytes(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ParameterError(f"{option} {text!r}: write hexadecimal digits") from None
