"""What a verifier accepts: `QuotePolicy`, held against evidence that `privlib.enclave.verify` has checked."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.x509 import load_der_x509_certificate

from privlib.enclave.refusals import (
    FreshnessError,
    MeasurementError,
    PolicyError,
    SignerError,
    TcbStatusError,
    UnlistedPlatformError,
    VersionError,
)
from privlib.trusted.binding import REPORT_DATA_BYTES, report_data

if TYPE_CHECKING:
    from privlib.enclave.verify import VerifiedQuote

TCB_STATUSES = frozenset(
    (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    )
)
"""Statuses that a policy may name. `Revoked` is none of them: it is refused whatever the policy says."""


@dataclass(frozen=True)
class QuotePolicy:
    """What must hold for a quote to be accepted.

    measurements   accepted MRENCLAVE (32 bytes; for TDX MRTD, 48, which covers the initial memory and not what is
                   loaded later: compare the RTMRs in the verdict's `quote.report` yourself)
    signers        accepted MRSIGNER (32 bytes; SGX alone)
    any_enclave    accept whatever enclave it is, where neither measurements nor signers are named (to look at a quote)
    product_id     ISVPRODID, exactly (SGX alone)
    minimum_svn    ISVSVN at least (SGX alone)
    tcb_statuses   accepted TCB statuses, of `TCB_STATUSES`
    report_data    the 64 bytes of report data, exactly; `fresh` fills them from a key, a nonce and a purpose
    platforms      accepted PPIDs (16 bytes): since attestation keys have been extracted from some platforms, a valid
                   quote from a platform nobody chose may be forged
    root           DER certificate of the root to trust; None is Intel's

    | named            | accepted when                                  |
    |------------------|------------------------------------------------|
    | neither          | never, unless `any_enclave`                    |
    | measurements     | the measurement is one of them                 |
    | signers          | the signer is one of them (name a product too) |
    | both             | both hold                                      |

    Debug enclaves are refused always: there is no option for them. Raises PolicyError for values of the wrong kind.
    """

    measurements: frozenset[bytes] = frozenset()
    signers: frozenset[bytes] = frozenset()
    any_enclave: bool = False
    product_id: int | None = None
    minimum_svn: int = 0
    tcb_statuses: frozenset[str] = frozenset({"UpToDate"})
    report_data: bytes | None = None
    platforms: frozenset[bytes] | None = None
    root: bytes | None = None

    def __post_init__(self) -> None:
        # A list or a set given by the caller is taken over; one string or bytes would be read as its characters.
        for name, kind in (("measurements", bytes), ("signers", bytes), ("tcb_statuses", str), ("platforms", bytes)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _collected(name, value, kind))
        _sizes("measurements", self.measurements, (32, 48))
        _sizes("signers", self.signers, (32,))
        _sizes("platforms", self.platforms or (), (16,))
        if unknown := self.tcb_statuses - TCB_STATUSES:
            raise PolicyError(f"tcb_statuses: {sorted(unknown)} cannot be accepted; known: {sorted(TCB_STATUSES)}")
        if self.report_data is not None and len(self.report_data) != REPORT_DATA_BYTES:
            raise PolicyError(f"report_data: {len(self.report_data)} bytes, expected {REPORT_DATA_BYTES}")
        if self.root is not None:
            try:
                load_der_x509_certificate(self.root)
            except ValueError as error:
                raise PolicyError(f"root: no DER certificate ({error})") from error
        if self.any_enclave and (self.measurements or self.signers):
            raise PolicyError("any_enclave contradicts measurements and signers; name one or the other")

    def fresh(self, public_key: bytes, nonce: bytes, purpose: str) -> "QuotePolicy":
        """The same policy for a quote that must bind `public_key` to `nonce` (32 bytes, drawn by the verifier)."""
        return replace(self, report_data=report_data(public_key, nonce, purpose))

    def check(self, verdict: "VerifiedQuote") -> None:
        """Raises the first `PolicyError` that applies, with the verdict in it."""
        status = f"TCB status {verdict.tcb_status}, advisories: {', '.join(verdict.advisories) or 'none'}"
        if verdict.tcb_status not in self.tcb_statuses:
            accepted = ", ".join(sorted(self.tcb_statuses)) or "none"
            raise TcbStatusError(f"{status}; the policy accepts {accepted}: name the status to accept it", verdict)
        if not (self.measurements or self.signers or self.any_enclave):
            raise PolicyError("the policy names neither a measurement nor a signer, so any enclave would do; "
                              "name one, or say any_enclave=True", verdict)  # fmt: skip
        if self.measurements and verdict.measurement not in self.measurements:
            raise MeasurementError(f"measurement {verdict.measurement.hex()} is not one that the policy names", verdict)
        if self.signers and verdict.signer not in self.signers:
            found = verdict.signer.hex() if verdict.signer else "none (TDX)"
            raise SignerError(f"signer {found} is not one that the policy names", verdict)
        if self.product_id is not None and verdict.product_id != self.product_id:
            raise VersionError(f"product {verdict.product_id}, the policy accepts {self.product_id}", verdict)
        if self.minimum_svn and (verdict.svn is None or verdict.svn < self.minimum_svn):
            raise VersionError(f"SVN {verdict.svn} is below the policy's minimum {self.minimum_svn}", verdict)
        if self.platforms is not None and verdict.platform not in self.platforms:
            raise UnlistedPlatformError(f"platform {verdict.platform.hex()} is not on the policy's list", verdict)
        if self.report_data is not None and verdict.report_data != self.report_data:
            raise FreshnessError(
                "the report data are not those of this key, nonce and purpose: an old quote, or one made for something "
                "else; ask for a new quote with a new nonce",
                verdict,
            )


def _collected(name: str, values: Iterable[object], kind: type) -> frozenset[object]:
    if isinstance(values, (str, bytes)):
        raise PolicyError(f"{name}: one {type(values).__name__}; give a set of them")
    found = frozenset(values)
    if not all(isinstance(value, kind) for value in found):
        raise PolicyError(f"{name}: expected {kind.__name__} values")
    return found


def _sizes(name: str, values: Iterable[bytes], sizes: tuple[int, ...]) -> None:
    for value in values:
        if len(value) not in sizes:
            raise PolicyError(f"{name}: {len(value)} bytes, expected {' or '.join(map(str, sizes))}")
