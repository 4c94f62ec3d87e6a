"""Launch an image on a platform."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from privlib.enclave.errors import LaunchError, PlatformError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.platforms import platform_named
from privlib.enclave.platforms.base import LaunchReport, Platform, Process
from privlib.enclave.session import Session
from privlib.trusted.loader import NAMESPACES, PRIVATE_FILES
from privlib.trusted.protocol import Message, Transport
from privlib.trusted.sandbox import CAPABILITIES, DESCRIPTORS, DUMPABLE, LANDLOCK, LIMITS, PRIVILEGES, SECCOMP
from privlib.trusted.service import REPORT_DATA_BYTES

# Without these a worker keeps no secret from its neighbours: what every Linux that can run privlib offers.
REQUIRED = (SECCOMP, DUMPABLE, PRIVILEGES, DESCRIPTORS, LIMITS)
ALL_MECHANISMS = (*NAMESPACES, PRIVATE_FILES, CAPABILITIES, LANDLOCK, *REQUIRED)


class Enclave:
    """A running enclave. Made by `launch`; a context manager that ends it."""

    def __init__(self, image: EnclaveImage, process: Process) -> None:
        self.image = image
        self._process = process
        self._turn = threading.Lock()
        self._session = Session(process.transport, process.death, self._turn)

    @property
    def report(self) -> LaunchReport:
        """How it came up: mechanisms, mapped files, seconds."""
        return self._process.report

    @property
    def measurement(self) -> bytes:
        """MRENCLAVE as this enclave's quotes state it: the image's, or what Gramine makes of it."""
        return self._process.measurement

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.alive()

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes that the worker confirmed. Raises LaunchError, EnclaveDied."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise LaunchError(f"report data have {REPORT_DATA_BYTES} bytes, got {len(report_data)}")
        data = np.frombuffer(report_data, np.uint8)
        answer = self._session.request(Message("report", arrays={"data": data}))
        return self._process.quote(report_data, answer.arrays)

    def connect(self, secure: Callable[["Enclave", Transport], Transport] | None = None) -> Session:
        """A session. secure: puts an authenticated, encrypted channel around the plain one; None: no encryption, for
        whoever runs on the same machine and trusts it."""
        if secure is None:
            return self._session
        return Session(secure(self, self._process.transport), self._process.death, self._turn)

    def close(self) -> None:
        """End it, gently and then not; what it held is gone. May be called twice."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch(
    image: EnclaveImage,
    platform: str | Platform = "simulated",
    *,
    debug: bool = False,
    require: Sequence[str] = REQUIRED,
) -> Enclave:
    """Start an enclave of `image` and wait until it serves.

    platform: a name ("simulated", "gramine", or one given to `register_platform`), or a Platform. debug: marks its
    quotes as a debug enclave's. require: mechanisms without which it must not start, by their names in
    `Enclave.report.mechanisms` of a simulated platform; ALL_MECHANISMS for all of them.
    Raises PlatformError, MechanismError, LaunchError, ImageError.
    """
    chosen = platform_named(platform) if isinstance(platform, str) else platform
    if reason := chosen.missing():
        raise PlatformError(f"platform {chosen.name!r} cannot be used here: {reason}")
    return Enclave(image, chosen.start(image, debug=debug, require=require))
