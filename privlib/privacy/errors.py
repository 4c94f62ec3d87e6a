"""What the privacy package refuses."""

from privlib.errors import PrivlibError


class AccountingError(PrivlibError, ValueError):
    """A number makes no sense, or no accountant here has an analysis of what was asked."""


class CalibrationError(AccountingError):
    """No noise reaches the target."""


class AuditError(PrivlibError, ValueError):
    """An audit was asked for that would show nothing, or whose bound would not hold."""
