"""What a platform has to offer, and how one is found by its name.

A distribution names its platforms by entry points of the group `privlib.platforms`: name = a class or function without
arguments that gives a Platform. Nothing here imports one before it is asked for.
"""

import select
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from privlib.enclave.errors import LaunchTimeout, PlatformError
from privlib.enclave.image import EnclaveImage
from privlib.trusted.protocol import Message, Stream, decode
from privlib.trusted.sealing import SealingKeys

SILENCE_SECONDS = 300.0
"""How long a worker may take from its start to its first word; PyTorch under Gramine takes about a minute."""


@dataclass(frozen=True)
class MappedFile:
    """A file mapped into an enclave: its name in the image, bytes of address space, `executable` of them code."""

    name: str
    size: int
    executable: int


@dataclass(frozen=True)
class LaunchReport:
    """How an enclave came up. mechanisms: what protects it → "", or why this host lacks it (empty where the platform
    protects by itself); mapped: files in its memory; threads: in it, 0 where unknown; seconds: from the call of
    `launch` until it was ready."""

    platform: str
    mechanisms: Mapping[str, str]
    mapped: tuple[MappedFile, ...]
    threads: int
    seconds: float

    @property
    def missing(self) -> dict[str, str]:
        """Mechanisms that this host lacks, with the reason."""
        return {name: reason for name, reason in self.mechanisms.items() if reason}


class Process(Protocol):
    """An enclave that runs."""

    @property
    def transport(self) -> Stream:
        """The plain channel to its worker."""

    @property
    def report(self) -> LaunchReport:
        """How it came up."""

    @property
    def measurement(self) -> bytes:
        """MRENCLAVE, as quotes of this enclave state it."""

    def quote(self, report_data: bytes) -> bytes:
        """A quote over report data (64 bytes) that the worker has stated. Raises LaunchError where the platform's
        quotes are made inside."""

    def sealing_keys(self) -> SealingKeys:
        """The enclave's keys, for a worker that asks. Raises LaunchError where the platform gives them inside."""

    def collateral(self) -> str | None:
        """What its quotes are verified with; None where the hardware's maker has it."""

    def alive(self) -> bool:
        """Whether it runs."""

    def death(self) -> str:
        """Wait until it has ended, for a moment at most; in words, how it did."""

    def stop(self) -> None:
        """End it, whatever it does, and give everything back. May be called twice."""


class Platform(Protocol):
    """Where enclaves run."""

    @property
    def name(self) -> str:
        """In reports."""

    def missing(self) -> str:
        """Why it cannot be used on this host, or ""."""

    def start(self, image: EnclaveImage, *, debug: bool, require: Sequence[str]) -> Process:
        """Load, start, and wait until the worker is ready. Raises LaunchError, MechanismError, ImageError."""


def first_word(stream: Stream) -> Message:
    """The first message of a worker that was started. Raises LaunchTimeout after SILENCE_SECONDS, ClosedError where it
    ends, ProtocolError."""
    waiting = select.poll()
    waiting.register(stream.incoming, select.POLLIN)
    if not waiting.poll(1000 * SILENCE_SECONDS):
        raise LaunchTimeout(
            f"the worker has said nothing for {SILENCE_SECONDS:g} s; look at the machine's load, memory and entropy"
        )
    return decode(stream.receive())


GROUP = "privlib.platforms"
_PLATFORMS: dict[str, Callable[[], Platform]] = {}


def register_platform(name: str, make: Callable[[], Platform]) -> None:
    """Make a platform known to `launch` by a name, in this process. Raises PlatformError where the name is taken."""
    if name in _PLATFORMS or name in _installed():
        raise PlatformError(f"there is a platform {name!r} already; choose another name")
    _PLATFORMS[name] = make


def platform_named(name: str) -> Platform:
    """The platform of this name. Raises PlatformError where there is none, or it cannot be used here."""
    installed = _installed()
    if name in _PLATFORMS:
        platform = _PLATFORMS[name]()
    elif name in installed:
        try:
            platform = installed[name].load()()
        except ImportError as error:
            raise PlatformError(f"platform {name!r} cannot be used here: {error}") from error
    else:
        known = ", ".join(sorted({*_PLATFORMS, *installed})) or "none: install privlib again (pip install -e .)"
        raise PlatformError(f"there is no platform {name!r}; there are {known}")
    if reason := platform.missing():
        raise PlatformError(f"platform {name!r} cannot be used here: {reason}")
    return platform


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
