"""What a chain refuses."""

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from privlib.sterling.errors import SterlingError

_ERROR_SELECTOR = keccak(text="Error(string)")[:4]


class ChainError(SterlingError):
    """The chain could not do what was asked; the message says what and why."""


class RevertedError(ChainError):
    """A contract refused the call; nothing changed. `reason` is the contract's own word ("" where it gave none)."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} was refused: {reason or 'no reason given'}")
        self.reason = reason


class ReorganisedError(ChainError):
    """The transaction is no longer on the chain: another branch took over. Send it again, or act on its absence."""


class NodeError(ChainError):
    """The node cannot be had, did not start, or does not answer."""


def revert_reason(output: bytes) -> str:
    """The text of Error(string) in what a refused call returned, "" where there is none."""
    if output[:4] != _ERROR_SELECTOR:
        return ""
    try:
        return str(decode(["string"], output[4:])[0])
    except (DecodingError, UnicodeDecodeError):
        return ""
