"""Measured boot and isolation, by the monitor whose transition table is proved: what its calls stand for here.

The monitor's regions are the regions of DRAM, by their numbers, and three more: the description, the encrypted model
and the mailbox through which the host speaks. Each region's content is mapped by its SHA-256 before the enclave is
finalised, so the measurement chain names everything that runs:

    measurement = SHA-256("privlib ginseng measurement v1", boot digest, chain)

`boot digest` covers bitstream, monitor and firmware, which measure themselves. The versions in the Tensor Encryption
Core's nonces are the monitor's: a tensor is written only after the monitor has served `store` for it.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import privlib
from privlib.ginseng.device.errors import MonitorRefusal
from privlib.ginseng.device.package import DESCRIPTION, SEALED, Package
from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory.encrypted import ExternalDram
from privlib.ginseng.monitor.expr import concrete_extend
from privlib.ginseng.monitor.machine import Monitor
from privlib.ginseng.monitor.table import REPORTED
from privlib.ginseng.vta.program import Region
from privlib.trusted.binding import encode

ENCLAVE = 1
_SOURCES = {
    "monitor": ("ginseng.monitor", "__init__ expr machine table"),
    "accelerator": ("ginseng.vta", "__init__ config execute functional isa network program uops"),
    "memory": ("ginseng.memory", "__init__ blocks dram encrypted"),
    "core": ("ginseng", "__init__ errors tec"),
    "firmware": ("ginseng.device", "__init__ errors hardware package secure_os service worker"),
    "channel": (
        "trusted",
        "__init__ binding bounded_json channel channel_errors conversation delivery door host inbox pages platform "
        "protocol records requests sealing storage stream",
    ),
    "quoting": (
        "enclave",
        "__init__ errors quote_writer refusals signer simulated_pki simulated_root simulated_sealing",
    ),
    "common": ("", "__init__ errors files"),
}
"""Every module of privlib in the process that plays the chip, by what it would be on one."""


def own_files() -> dict[str, bytes]:
    """What this device is made of: name -> bytes. `bitstream/` is SIMULATED: the SystemVerilog stands for the bitstream
    that is made of it."""
    home = Path(privlib.__file__).parent
    found = {f"bitstream/{path.name}": path.read_bytes() for path in sorted((home / "ginseng" / "rtl").glob("*.sv"))}
    for folder, (package, names) in _SOURCES.items():
        place = home.joinpath(*package.split("."))
        found |= {f"{folder}/{name}.py": (place / f"{name}.py").read_bytes() for name in names.split()}
    return found


def boot_digest(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 over names and contents of what the device is made of."""
    fields = [each for name in sorted(files) for each in (name.encode(), hashlib.sha256(files[name]).digest())]
    return hashlib.sha256(encode(b"privlib ginseng boot v1", fields)).digest()


class SecureOs:
    """The monitor with one enclave in it, built of a package."""

    def __init__(self, package: Package, booted: bytes) -> None:
        """booted: the boot digest, 32 bytes."""
        self.monitor, self._booted = Monitor(), booted
        self._call("create", enclave=ENCLAVE)
        regions = sorted(package.program.regions.values(), key=lambda region: region.number)
        for region in regions:
            content = package.constants.get(region.name)
            self._call("map", enclave=ENCLAVE, region=region.number, value=0 if content is None else _number(content))
        for number, name in enumerate((DESCRIPTION, SEALED), start=len(regions)):
            if name in package.files:
                self._call("map", enclave=ENCLAVE, region=number, value=_number(package.files[name]))
        self.mailbox = len(regions) + 2
        self._call("share", enclave=ENCLAVE, region=self.mailbox)
        self._call("finalize", enclave=ENCLAVE)

    @property
    def measurement(self) -> bytes:
        """What runs here, 32 bytes."""
        chain: int = self.monitor.state["measurement"][ENCLAVE]
        fields = (self._booted, chain.to_bytes(32, "big"))
        return hashlib.sha256(encode(b"privlib ginseng measurement v1", fields)).digest()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within, the enclave runs; before and after, the on-chip buffers are wiped."""
        self._call("enter", enclave=ENCLAVE)
        try:
            yield
        finally:
            self._call("exit")

    def load_key(self, key: bytes) -> None:
        """Give the enclave its memory key. Raises MonitorRefusal for a second one."""
        with self.running():
            self._call("load_key", value=int.from_bytes(key, "big"))

    def attested_measurement(self, report_data: bytes) -> bytes:
        """The measurement, if the monitor's report over `report_data` is one of it. Raises MonitorRefusal."""
        nonce = int.from_bytes(report_data, "big")
        with self.running():
            report = self._call("attest", nonce=nonce)
        chain = self.monitor.state["measurement"][ENCLAVE]
        if report != concrete_extend(concrete_extend(chain, REPORTED), nonce):
            raise MonitorRefusal("the monitor's report is not of the enclave that runs")
        return self.measurement

    def store(self, region: Region) -> int:
        """The version under which a tensor is written next. Raises MonitorRefusal where it may not be."""
        self._call("store", region=region.number)
        return int(self.monitor.state["version"][region.number])

    def destroy(self) -> None:
        """End the enclave and wipe its key and memory."""
        self._call("destroy", enclave=ENCLAVE)
        for number in range(self.mailbox + 1):
            if self.monitor.state["owner"].get(number) == ENCLAVE:
                self._call("reclaim", region=number)

    def _call(self, name: str, **arguments: int) -> int:
        reply = self.monitor.call(name, **arguments)
        if reply.refused is not None:
            raise MonitorRefusal(f"{name} is refused: {reply.refused}")
        return reply.value


class GuardedDram:
    """Encrypted DRAM in which a tensor is written only with the monitor's leave, under the monitor's version."""

    def __init__(self, secure_os: SecureOs, memory: ExternalDram) -> None:
        self._os, self.memory = secure_os, memory

    def begin(self, region: Region) -> None:
        """A new version of a tensor is about to be written. Raises MonitorRefusal, ProtectionError."""
        version = self._os.store(region)
        self.memory.begin(region)
        if self.memory.version(region) != version:
            raise ProtectionError(f"tensor {region.name!r}: the monitor's version is {version}, the memory's another")

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end), checked. Raises IntegrityError."""
        return self.memory.read(start, end)

    def write(self, start: int, data: bytes) -> None:
        """Encrypt `data` to `start`. Raises ProtectionError."""
        self.memory.write(start, data)


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest(), "big")
