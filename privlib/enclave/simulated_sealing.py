"""The SIMULATED platform's sealing: a secret, the keys it gives each enclave, and a version register in a file.

On SGX the processor derives these keys (EGETKEY) and no software sees the secret. Here it lies in a file of the host
(mode 0600), and so does the register: who controls the host reads the one and sets back the other. What is simulated
is who gets which key, and what the enclave does with them.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from privlib.files import atomic_path, cache_dir, create_private
from privlib.trusted.binding import encode
from privlib.trusted.sealing import (
    DIGEST_BYTES,
    MAXIMUM_SVN,
    NOTHING,
    RollbackError,
    SealError,
    SealingKeys,
    older_key,
)

FILE = "simulated-platform.secret"
_REGISTER = struct.Struct(">4sQ32s")


@dataclass(frozen=True)
class SimulatedPlatformSecret:
    """What stands for the processor's fused key: 32 bytes."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @classmethod
    def load_or_create(cls, folder: Path | None = None) -> "SimulatedPlatformSecret":
        """This installation's secret: `folder`/simulated-platform.secret (default: privlib's cache), made on first use.

        Raises SealError where that file is damaged.
        """
        path = (cache_dir("simulated") if folder is None else folder) / FILE
        text = create_private(path, secrets.token_bytes(32).hex())
        try:
            found = bytes.fromhex(text)
        except ValueError as error:
            raise SealError(f"{path} is damaged: what it sealed is lost; remove it to begin anew") from error
        if len(found) != 32:
            raise SealError(f"{path} is damaged: what it sealed is lost; remove it to begin anew")
        return cls(found)

    def keys(self, mr_enclave: bytes, mr_signer: bytes, isv_prod_id: int, isv_svn: int, debug: bool) -> SealingKeys:
        """The keys of one enclave: bound to its measurement, and to signer, product and version.

        A debug enclave gets others, so that it opens nothing of a production enclave.
        Raises SealError for an SVN that is none.
        """
        if not 0 <= isv_svn <= MAXIMUM_SVN:
            raise SealError(f"isv_svn {isv_svn}: expected 0 … {MAXIMUM_SVN}")
        mode = b"debug" if debug else b"production"
        product = isv_prod_id.to_bytes(2, "big")
        newest = self._derive(b"privlib SIMULATED sealing: signer", mr_signer, product, mode)
        return SealingKeys(
            self._derive(b"privlib SIMULATED sealing: measurement", mr_enclave, mode),
            older_key(newest, MAXIMUM_SVN - isv_svn),
            isv_svn,
        )

    def _derive(self, label: bytes, *fields: bytes) -> bytes:
        return hmac.digest(self.secret, encode(label, fields), hashlib.sha256)


class FileRegister:
    """A register (`privlib.trusted.sealing.Register`) in a file; several processes may share it.

    It outlives crashes: the file is replaced whole. It does not outlive a host that puts an old file back.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def read(self) -> tuple[int, bytes]:
        """(version, digest). Raises SealError for a file that is no register."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0, NOTHING
        if len(data) != _REGISTER.size or not data.startswith(b"PLR1"):
            raise SealError(f"{self._path} is no register: versions of what it guards cannot be checked")
        _, version, digest = _REGISTER.unpack(data)
        return version, digest

    def advance(self, version: int, digest: bytes) -> None:
        """Go on to `version`, which must follow the current one. Raises RollbackError."""
        if len(digest) != DIGEST_BYTES:
            raise SealError(f"digest: {len(digest)} bytes, expected {DIGEST_BYTES}")
        with self._locked():
            current, _ = self.read()
            if version != current + 1:
                raise RollbackError(f"the register is at version {current} and does not go on to {version}")
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(_REGISTER.pack(b"PLR1", version, digest))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
