"""Why a quote, or what came with it, is refused: one class for each reason, all of them `AttestationError`."""

from typing import TYPE_CHECKING

from privlib.errors import PrivlibError

if TYPE_CHECKING:
    from privlib.enclave.verify import VerifiedQuote


class AttestationError(PrivlibError):
    """Base: nothing that was attested may be relied upon."""


class QuoteFormatError(AttestationError):
    """The bytes are no quote; the message names the field."""


class CollateralError(AttestationError):
    """The collateral is missing, cannot be fetched, or is not what a quote is verified with."""


class EvidenceError(AttestationError):
    """A signature, certificate chain, revocation list or TCB level does not hold under the policy's root."""


class ExpiredError(EvidenceError):
    """A certificate, revocation list or collateral is not valid at the time of verification."""


class RevokedError(EvidenceError):
    """The platform's certificate or its TCB level has been revoked."""


class DebugError(AttestationError):
    """A debug enclave or quoting enclave: the host reads and writes its memory, whatever its measurement is."""


class PolicyError(AttestationError):
    """The evidence holds and the policy does not accept what it says; `verdict` holds what that is.

    Without a verdict, the policy itself is malformed.
    """

    def __init__(self, message: str, verdict: "VerifiedQuote | None" = None) -> None:
        super().__init__(message)
        self.verdict = verdict


class MeasurementError(PolicyError):
    """Another measurement (MRENCLAVE, MRTD) than the policy names."""


class SignerError(PolicyError):
    """Another signer (MRSIGNER) than the policy names."""


class VersionError(PolicyError):
    """Another product, or a security version (SVN) below the policy's minimum."""


class TcbStatusError(PolicyError):
    """A TCB status that the policy does not name as acceptable."""


class FreshnessError(PolicyError):
    """Report data that are not those of this key, nonce and purpose: a replay, or a quote made for something else."""


class UnlistedPlatformError(PolicyError):
    """A platform that is not on the policy's list."""
