"""What a worker gets from its platform: quotes over its report data, its measurement, and keys to seal with.

Under Gramine all of them are files of /dev/attestation, made by the hardware. On the simulated platform the host's
launcher stands for the hardware, so they are calls to the host (`privlib.trusted.host`).
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.binding import REPORT_DATA_BYTES, report_data
from privlib.trusted.host import Host, HostError
from privlib.trusted.sealing import KEY_BYTES, MAXIMUM_SVN, SealingKeys

IDENTITY = "privlib identity"
_MEASUREMENT = slice(48 + 64, 48 + 96)  # MRENCLAVE in a quote of version 3: behind the header, at 64 of the report
_SVN = slice(48 + 258, 48 + 260)


class PlatformServiceError(PrivlibError):
    """The platform gives no quote or no key."""


class Platform(Protocol):
    """One worker's platform."""

    def quote(self, data: bytes) -> bytes:
        """A quote over 64 bytes of report data. Raises PrivlibError."""

    def sealing_keys(self) -> SealingKeys:
        """The enclave's own. Raises PrivlibError."""


def identity_report_data(nonce: bytes) -> bytes:
    """What a quote states that was asked for from outside: a nonce, and no key. Whoever could have other report data
    quoted would have a key of its own taken for the enclave's."""
    return report_data(b"", nonce, IDENTITY)


def own_measurement(platform: Platform) -> bytes:
    """MRENCLAVE, 32 bytes, as the platform's quotes state it. Under a host that lies about it no key opens."""
    return platform.quote(bytes(REPORT_DATA_BYTES))[_MEASUREMENT]


class SimulatedCpu:
    """SIMULATED: the launcher makes the quote, and derives the keys."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def quote(self, data: bytes) -> bytes:
        """See Platform.quote."""
        arrays = {"report_data": np.frombuffer(data, np.uint8)}
        return self._host.bytes_of(self._host.call("quote", arrays=arrays), "quote")

    def sealing_keys(self) -> SealingKeys:
        """See Platform.sealing_keys."""
        answer = self._host.call("keys")
        measurement, signer = (self._host.bytes_of(answer, name) for name in ("measurement", "signer"))
        svn = answer.fields.get("svn")
        if len(measurement) != KEY_BYTES or len(signer) != KEY_BYTES or type(svn) is not int:
            raise HostError("the host's keys are none")
        if not 0 <= svn <= MAXIMUM_SVN:
            raise HostError(f"the host states SVN {svn}")
        return SealingKeys(measurement, signer, svn)


class GramineFiles:
    """Gramine's pseudo-files: what is written to user_report_data is in the quote that is read then ("Attestation and
    Secret Provisioning"); keys/ holds EGETKEY's, 16 bytes each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def quote(self, data: bytes) -> bytes:
        """See Platform.quote."""
        try:
            (self._folder / "user_report_data").write_bytes(data)
            return (self._folder / "quote").read_bytes()
        except OSError as error:
            raise PlatformServiceError(f"no quote: {error}; is sgx.remote_attestation on, and SGX here?") from None

    def sealing_keys(self) -> SealingKeys:
        """See Platform.sealing_keys. Both are of the enclave's own SVN: older versions' state does not open."""
        svn = int.from_bytes(self.quote(bytes(REPORT_DATA_BYTES))[_SVN], "little")
        try:
            keys = [(self._folder / "keys" / name).read_bytes() for name in ("_sgx_mrenclave", "_sgx_mrsigner")]
        except OSError as error:
            raise PlatformServiceError(f"no sealing key: {error}; is SGX here?") from None
        return SealingKeys(keys[0], keys[1], svn)
