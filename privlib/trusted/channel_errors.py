"""What a channel refuses, one class for each reason. After any of them the channel is closed for good."""

from privlib.errors import PrivlibError


class ChannelError(PrivlibError):
    """Base: the channel cannot be opened or used."""


class HandshakeError(ChannelError):
    """A handshake message that is malformed, comes out of turn, or does not confirm the keys."""


class ClientError(ChannelError):
    """A client that does not prove an identity, or one that is not on the list."""


class RecordFormatError(ChannelError):
    """A record whose header is not one, or that is longer than allowed."""


class AuthenticationError(ChannelError):
    """A record that was altered, or sealed under another key."""


class ReflectionError(ChannelError):
    """A record that this end sent itself."""


class ReplayError(ChannelError):
    """A record or key that was received before."""


class ReorderError(ChannelError):
    """A record that comes before its turn: others are missing or were moved."""


class TruncationError(ChannelError):
    """The stream ended before the peer closed the channel, or inside a record or message."""


class LimitError(ChannelError):
    """A message longer than its receiver allows, or a key used as often as it may be."""


class ClosedError(ChannelError):
    """The channel is closed: by either end, or by an earlier error."""


class KeyDeliveryError(ChannelError):
    """A sealed key that is malformed, or was not sealed for this enclave, nonce, purpose, dataset and policy."""
