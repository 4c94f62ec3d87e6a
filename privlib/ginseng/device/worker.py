"""The process that plays the chip: it boots an image measured, and answers messages until its channel ends. SIMULATED.

    python -m privlib.ginseng.device.worker FUSES CHANNEL DRAM

FUSES: the device's folder; CHANNEL: a socket; DRAM: a memory file, which the host maps too: whatever the host does to
it is an attack on the bus. The first message brings the image: its files as arrays, its signature, and "debug".
"""

import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from privlib.enclave.signer import Signature
from privlib.errors import PrivlibError
from privlib.ginseng.device import package as packages
from privlib.ginseng.device import secure_os
from privlib.ginseng.device.errors import BootError
from privlib.ginseng.device.hardware import DeviceKeys, Fuses
from privlib.ginseng.device.service import DeviceService
from privlib.ginseng.memory.encrypted import TaggedDram
from privlib.trusted.door import Door, refusal
from privlib.trusted.host import Host
from privlib.trusted.inbox import Inbox
from privlib.trusted.protocol import MAXIMUM_FRAME, ClosedError, Message, Stream, decode, encode
from privlib.trusted.sealing import SealingKeys


class BootedPlatform:
    """Quotes and keys of this boot (`privlib.trusted.platform.Platform`)."""

    def __init__(self, booted: secure_os.SecureOs, keys: DeviceKeys, signature: Signature, debug: bool) -> None:
        self._os, self._keys, self._signature, self._debug = booted, keys, signature, debug

    def quote(self, data: bytes) -> bytes:
        """A DCAP quote over 64 bytes of report data, of what the monitor attests. Its layout is SGX's, so a verdict's
        `tee` reads SGX; the anchor says whose it is. Raises MonitorRefusal."""
        measurement, signature = self._os.attested_measurement(data), self._signature
        return self._keys.root.quote(
            measurement, signature.mr_signer, signature.product_id, signature.svn, self._debug, data
        )

    def sealing_keys(self) -> SealingKeys:
        """The image's own, on this device."""
        return self._keys.sealing


def boot(message: Message, fuses: Fuses, dram: int, stream: Stream, host: Host) -> tuple[Door, bytes]:
    """The booted device's door and its measurement. Raises BootError, ImageError, RollbackError, PackageError."""
    files = {name: array.tobytes() for name, array in message.arrays.items() if name not in ("modulus", "value")}
    own = secure_os.own_files()
    _same(own, {name: data for name, data in files.items() if not name.startswith(packages.FOLDER)})
    package = packages.read({name: data for name, data in files.items() if name.startswith(packages.FOLDER)})
    booted = secure_os.SecureOs(package, secure_os.boot_digest(own))
    fields, arrays = message.fields, message.arrays
    signature = Signature(arrays["modulus"].tobytes(), fields["product_id"], fields["svn"], arrays["value"].tobytes())
    signature.verify(booted.measurement)
    debug = bool(fields["debug"])
    if not debug:
        fuses.advance(signature.mr_signer, signature.product_id, signature.svn)
    identity = (booted.measurement, signature.mr_signer, signature.product_id, signature.svn, debug)
    keys = fuses.keys(secure_os.boot_digest(own), *identity)
    booted.load_key(keys.memory)
    memory = TaggedDram(package.program, keys.memory, package.partition, partial_writes=False)
    os.ftruncate(dram, len(memory.dram))
    memory.move(mmap.mmap(dram, len(memory.dram)))
    platform = BootedPlatform(booted, keys, signature, debug)
    return Door(DeviceService(package, booted, memory, platform, host, stream), platform), booted.measurement


def _same(own: Mapping[str, bytes], given: Mapping[str, bytes]) -> None:
    """A device measures what it is itself; an image that was built for something else is not its."""
    other = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if other:
        raise BootError(f"the image was built for another device: {', '.join(other[:3])} "
                        f"({len(other)} files) differ; build the image again")  # fmt: skip


def main(folder: str, channel: int, dram: int) -> None:
    """Serve until the other end is gone, which ends the process."""
    stream = Stream(channel, channel, MAXIMUM_FRAME)
    inbox = Inbox(stream)
    host = Host(stream.send, inbox.receive)
    try:
        door, measurement = boot(decode(inbox.receive()), Fuses(Path(folder)), dram, stream, host)
    except PrivlibError as error:
        stream.send(encode(refusal(error)))
        return
    stream.send(encode(Message("ready", {"measurement": measurement.hex()})))
    while True:
        try:
            stream.send(encode(door.answer(decode(inbox.receive_request()))))
        except ClosedError:
            return
        except (PrivlibError, MemoryError) as error:
            stream.send(encode(refusal(error)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
