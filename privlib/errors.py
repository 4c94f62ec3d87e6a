"""The root of every error privlib raises on purpose: each message says what is wrong and what to do."""


class PrivlibError(Exception):
    """Base class; catch it to tell privlib's own refusals from faults of the libraries beneath."""
