"""SIMULATED hardware: a device's fuses, the maker's root that vouches for it, and the keys that come from them.

On a chip the root key and the version counters are fuses that only the boot ROM reads, and the maker's key never
leaves the maker. Here they are files of the host (mode 0600), read by the process that plays the chip: who controls
the host has them. What is simulated is who gets which key, and what the device does with it.

The chain of keys follows TCG's DICE ("Hardware Requirements for a Device Identifier Composition Engine"): a compound
identifier from the root key and the measurement of bitstream, monitor and firmware, by HKDF-SHA256 (RFC 5869); from it
the attestation key, the sealing keys of the image, and a fresh memory key for every boot. Another bitstream or monitor
has none of these keys.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.simulated_sealing import SimulatedPlatformSecret
from privlib.files import atomic_path, cache_dir
from privlib.trusted.sealing import RollbackError, SealError, SealingKeys

ROOT_NAME = "privlib SIMULATED accelerator root, NOT A MAKER'S"
VERSIONS = "simulated-versions.json"
MEMORY_KEY_BYTES = 16
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-5)


def device_folder() -> Path:
    """Where this installation's simulated device keeps its fuses."""
    return cache_dir("simulated", "ginseng")


def simulated_root(folder: Path | None = None) -> SimulatedRoot:
    """The SIMULATED maker: its certificate is what a policy names to accept this installation's devices. It is another
    root than that of simulated enclaves."""
    return SimulatedRoot.load_or_create(folder or device_folder(), ROOT_NAME)


@dataclass(frozen=True)
class DeviceKeys:
    """Keys of one boot."""

    root: SimulatedRoot  # with this boot's attestation key
    memory: bytes = field(repr=False)  # 16, of the Tensor Encryption Core
    sealing: SealingKeys = field(repr=False)


class Fuses:
    """The root key and the version counters of one device, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secret = SimulatedPlatformSecret.load_or_create(folder).secret

    def keys(
        self, boot_digest: bytes, measurement: bytes, signer: bytes, product_id: int, svn: int, debug: bool
    ) -> DeviceKeys:
        """The keys of a boot of this image on this bitstream, monitor and firmware (`boot_digest`, 32 bytes)."""
        identifier = _derive(self._secret, b"compound device identifier", boot_digest)
        # FIPS 186-5, A.2.1: a key from 64 bits more than the order has.
        number = int.from_bytes(_derive(identifier, b"attestation key", b"", 40), "big") % (_ORDER - 1) + 1
        root = replace(simulated_root(self._folder), attestation_key=derive_private_key(number, SECP256R1()))
        sealing = SimulatedPlatformSecret(_derive(identifier, b"sealing"))
        memory = _derive(identifier, b"memory", secrets.token_bytes(32), MEMORY_KEY_BYTES)
        return DeviceKeys(root, memory, sealing.keys(measurement, signer, product_id, svn, debug))

    def advance(self, signer: bytes, product_id: int, svn: int) -> None:
        """Note that this version of a signer's product has booted: no older one boots from now on.

        Raises RollbackError for an older one, SealError where the file is damaged.
        """
        name = f"{signer.hex()}/{product_id}"
        path = self._folder / VERSIONS
        with _locked(path):
            try:
                versions = json.loads(path.read_text()) if path.exists() else {}
                newest = int(versions.get(name, 0))
            except (ValueError, TypeError, AttributeError) as error:
                raise SealError(
                    f"{path} is damaged: which versions have booted is lost; remove it to begin anew"
                ) from error
            if svn < newest:
                raise RollbackError(
                    f"version {svn} of product {product_id}, and version {newest} has booted here: a device does not "
                    "go back; build the image with that SVN or a later one"
                )
            if svn > newest:
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps({**versions, name: svn}))


def _derive(key: bytes, label: bytes, salt: bytes = b"", size: int = 32) -> bytes:
    return HKDF(hashes.SHA256(), size, salt=salt or None, info=b"privlib ginseng v1: " + label).derive(key)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
