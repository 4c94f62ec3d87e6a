"""Launch an image on a platform."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.errors import LaunchError, PlatformError, RequestRefused
from privlib.enclave.image import EnclaveImage
from privlib.enclave.link import Link
from privlib.enclave.platforms import platform_named
from privlib.enclave.platforms.base import LaunchReport, Platform, Process
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.session import Session, Verifier
from privlib.enclave.state import StateStore
from privlib.files import cache_dir
from privlib.trusted.binding import NONCE_BYTES
from privlib.trusted.loader import NAMESPACES, PRIVATE_FILES
from privlib.trusted.protocol import Message
from privlib.trusted.sandbox import CAPABILITIES, DESCRIPTORS, DUMPABLE, LANDLOCK, LIMITS, PRIVILEGES, SECCOMP

# Without these a worker keeps no secret from its neighbours: what every Linux that can run privlib offers.
REQUIRED = (SECCOMP, DUMPABLE, PRIVILEGES, DESCRIPTORS, LIMITS)
ALL_MECHANISMS = (*NAMESPACES, PRIVATE_FILES, CAPABILITIES, LANDLOCK, *REQUIRED)


class Enclave:
    """A running enclave. Made by `launch`; a context manager that ends it."""

    def __init__(self, image: EnclaveImage, process: Process, state: StateStore) -> None:
        self.image, self.state = image, state
        self._process = process
        self._link = Link(process, state)

    @property
    def report(self) -> LaunchReport:
        """How it came up: mechanisms, mapped files, seconds."""
        return self._process.report

    @property
    def measurement(self) -> bytes:
        """MRENCLAVE as this enclave's quotes state it: the image's, or what Gramine makes of it."""
        return self._process.measurement

    @property
    def process(self) -> Process:
        """What the host has of it, as its platform made it."""
        return self._process

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.alive()

    @property
    def collateral(self) -> str | None:
        """What its quotes are verified with, where the platform makes it itself; it needs no trust. None: the hardware
        maker's service has it."""
        return self._process.collateral()

    def quote(self, nonce: bytes) -> bytes:
        """A quote for whoever sent this nonce (32 bytes): a policy's `fresh(b"", nonce, IDENTITY)` accepts it.

        Other report data cannot be asked for: who could, would have its own key taken for the enclave's.
        Raises LaunchError, EnclaveDied.
        """
        if len(nonce) != NONCE_BYTES:
            raise LaunchError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
        answer = self._link.exchange(Message("quote", arrays={"nonce": np.frombuffer(nonce, np.uint8)}))
        if answer.kind == "error":
            raise RequestRefused(answer.fields["type"], answer.fields["text"])
        return answer.arrays["quote"].tobytes()

    def connect(
        self,
        policy: QuotePolicy | None,
        *,
        identity: Ed25519PrivateKey | None = None,
        collateral: str | None = None,
        now: float | None = None,
    ) -> Session:
        """A session, in a channel of its own that ends inside: opened once the enclave's quote, which binds the
        channel's key, has been verified under `policy`.

        policy: None for a session in the clear, for whoever runs on the same machine, trusts it, and gives no key.
        identity: proves to the enclave who this is, where a provider's terms ask for that. collateral, now: as in
        `verify_quote`; the platform's own collateral by default. Raises AttestationError, ChannelError, EnclaveDied.
        """
        verifier = None
        if policy is not None:
            verifier = Verifier(policy, self.collateral if collateral is None else collateral, now)
        manifest = self.image.manifest if self.image.measurement == self.measurement else ""
        return Session(self._link, manifest, verifier, identity)

    def offer_file(self, digest: str, path: Path) -> None:
        """Let it read a dataset's ciphertext from a file. digest: the file's SHA-256, hexadecimal."""
        self._link.datasets[digest] = path

    def close(self) -> None:
        """End it; what it held is gone. May be called twice."""
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
    state: StateStore | None = None,
) -> Enclave:
    """Start an enclave of `image` and wait until it serves.

    platform: a name ("simulated", "gramine", "ginseng", or another that `platforms.base` finds), or a Platform.
    debug: marks its quotes as a debug enclave's. require: mechanisms without which it must not start, by their names
    in `Enclave.report.mechanisms` of a simulated platform; ALL_MECHANISMS for all of them. state: where its sealed
    state is kept; None for a folder of the cache, one for each measurement.
    Raises PlatformError, MechanismError, LaunchError (LaunchTimeout for a worker that says nothing), ImageError.
    """
    chosen = platform_named(platform) if isinstance(platform, str) else platform
    if reason := chosen.missing():
        raise PlatformError(f"platform {chosen.name!r} cannot be used here: {reason}")
    process = chosen.start(image, debug=debug, require=require)
    if state is None:
        mode = "-debug" if debug else ""
        state = StateStore(cache_dir("enclave", "state") / f"{chosen.name}-{process.measurement.hex()}{mode}")
    return Enclave(image, process, state)
