"""`platform="ginseng"`: SIMULATED accelerators, each a process of this machine that plays the chip.

The process is not closed in as a simulated enclave's is: on a chip there is no operating system beside the monitor to
be kept out. What the host has of the device is its channel and its DRAM.
"""

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import privlib
from privlib.enclave.errors import ImageError, LaunchError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.platforms.base import LaunchReport
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.ginseng.device.errors import BootError, TrainingUnsupportedError
from privlib.ginseng.device.hardware import device_folder, simulated_root
from privlib.ginseng.device.package import DESCRIPTION
from privlib.trusted.artifact import MANIFEST
from privlib.trusted.protocol import ClosedError, Message, Stream, decode, encode
from privlib.trusted.sealing import RollbackError, SealingKeys
from privlib.trusted.worker import ARTIFACT

SIMULATED = "played by a process of this host"
_SECONDS_TO_DIE = 5.0


class GinsengPlatform:
    """SIMULATED accelerators of one maker.

    folder: holds the device's fuses and the maker's root (SIMULATED); None for this installation's own in the cache.
    """

    name = "ginseng"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or device_folder()
        self.root = simulated_root(self.folder)

    def missing(self) -> str:
        return "" if hasattr(os, "memfd_create") else "it needs Linux"

    def start(self, image: EnclaveImage, *, debug: bool, require: Sequence[str]) -> "GinsengProcess":
        """See Platform.start. `require` names mechanisms of a host's kernel; a chip needs none of them.

        Raises TrainingUnsupportedError for an image that trains, BootError for one that holds no accelerator program or
        was built for another device, RollbackError for a version older than one that has booted.
        """
        _accelerator_image(image)
        started = time.monotonic()
        process = GinsengProcess(self)
        try:
            process.boot(image, debug, started)
        except BaseException:
            process.stop()
            raise
        return process


class GinsengProcess:
    """A device and the host's end of its channel. dram: what anyone on its bus may read and change."""

    report: LaunchReport
    measurement: bytes
    dram: mmap.mmap | None = None

    def __init__(self, platform: GinsengPlatform) -> None:
        self._root: SimulatedRoot = platform.root
        self._memory = os.memfd_create("privlib:dram", os.MFD_CLOEXEC)
        self._own, theirs = socket.socketpair()
        command = [sys.executable, "-m", "privlib.ginseng.device.worker", str(platform.folder)]
        descriptors = (theirs.fileno(), self._memory)
        environment = {**os.environ, "PYTHONPATH": str(Path(privlib.__file__).parents[1])}
        try:
            self._process = subprocess.Popen(
                [*command, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                pass_fds=descriptors,
            )
        except OSError as error:
            self._own.close()
            os.close(self._memory)
            raise LaunchError(f"no process could be started: {error}") from error
        finally:
            theirs.close()
        self.transport = Stream(self._own.fileno(), self._own.fileno())

    def boot(self, image: EnclaveImage, debug: bool, started: float) -> None:
        """Send the image, and wait until the device serves."""
        signature = image.signature
        arrays = {file.name: np.frombuffer(file.read(), np.uint8) for file in image.files}
        arrays |= {
            "modulus": np.frombuffer(signature.modulus, np.uint8),
            "value": np.frombuffer(signature.value, np.uint8),
        }
        fields = {"product_id": signature.product_id, "svn": signature.svn, "debug": debug}
        try:
            self.transport.send(encode(Message("boot", fields, arrays)))
            answer = decode(self.transport.receive())
        except ClosedError:
            raise LaunchError(f"the device ended before it was ready: {self.death()}") from None
        if answer.kind == "error":
            raise _refusal(answer.fields["type"], answer.fields["text"])
        self.measurement = bytes.fromhex(answer.fields["measurement"])
        self.dram = mmap.mmap(self._memory, os.fstat(self._memory).st_size)
        seconds = time.monotonic() - started
        self.report = LaunchReport(GinsengPlatform.name, {"a chip of its own": SIMULATED}, (), 0, seconds)

    def quote(self, report_data: bytes) -> bytes:
        """See Process.quote."""
        raise LaunchError("a device makes its quotes inside")

    def sealing_keys(self) -> SealingKeys:
        """See Process.sealing_keys."""
        raise LaunchError("a device's sealing keys come from its fuses, inside")

    def collateral(self) -> str | None:
        """See Process.collateral."""
        return self._root.collateral()

    def alive(self) -> bool:
        """See Process.alive."""
        return self._process.poll() is None

    def death(self) -> str:
        """See Process.death."""
        try:
            code = self._process.wait(_SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return "its channel is closed, the process is still there"
        return f"{signal.Signals(-code).name}: it was ended by a signal" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """See Process.stop."""
        if self._own.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            self._own.shutdown(socket.SHUT_RDWR)
        self.transport.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._own.close()
        os.close(self._memory)
        if self.dram is not None:
            self.dram.close()


def _accelerator_image(image: EnclaveImage) -> None:
    names = {file.name for file in image.files}
    if DESCRIPTION in names:
        return
    described = f"{ARTIFACT}/{MANIFEST}"
    if described in names and json.loads(image.file(described).read()).get("kind") == "training":
        raise TrainingUnsupportedError(
            "training on the accelerator is not claimed; launch this image on another platform"
        )
    raise BootError("the image holds no program of the accelerator; make one with build_device_image")


def _refusal(kind: str, text: str) -> Exception:
    found = {"ImageError": ImageError, "RollbackError": RollbackError, "BootError": BootError}.get(kind)
    return LaunchError(f"{kind}: {text}") if found is None else found(text)
