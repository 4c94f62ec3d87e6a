"""SIMULATED enclaves: a process of this machine that is closed in by Linux. No hardware stands behind them.

This module is what the hardware would be. It loads the very bytes that it measured (a sealed memory file), keeps the
files that Python loads from the host under watch, makes the quotes and derives the keys. It stops a curious peer
process and a worker that wants out; it does not stop root, the kernel, or whoever runs this code.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from privlib.enclave.errors import ImageError, LaunchError, MechanismError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.inventory import HOST, LOADER, File
from privlib.enclave.platforms.base import LaunchReport, MappedFile, first_word
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.simulated_sealing import SimulatedPlatformSecret
from privlib.trusted import loader
from privlib.trusted.private_file import SEALS
from privlib.trusted.protocol import ClosedError, Message, Stream
from privlib.trusted.sealing import SealingKeys
from privlib.trusted.serving import CRASHED

_SECONDS_TO_DIE = 5.0
_CHANNEL_BUFFER = 4 << 20
_ENDS = {
    int(signal.SIGSYS): "it made a system call outside its list",
    int(signal.SIGKILL): "it was killed, or memory ran out",
    int(signal.SIGSEGV): "it touched memory that is not its own",
}

_CODES = {CRASHED: ", a fault of its own", os.EX_PROTOCOL: ", a frame it could not take"}


class SimulatedPlatform:
    """Worker processes under namespaces, Landlock and seccomp.

    root: vouches for its quotes (SIMULATED); secret: what its sealing keys come from (SIMULATED). None for this
    installation's own, made at their first use.
    """

    name = "simulated"

    def __init__(self, root: SimulatedRoot | None = None, secret: SimulatedPlatformSecret | None = None) -> None:
        self.root = root or SimulatedRoot.load_or_create()
        self.secret = secret or SimulatedPlatformSecret.load_or_create()

    def missing(self) -> str:
        machine = f"{sys.platform} {os.uname().machine}"
        return "" if machine == "linux x86_64" else f"it needs Linux on x86-64, and this is {machine}"

    def start(self, image: EnclaveImage, *, debug: bool, require: Sequence[str]) -> "SimulatedProcess":
        """See Platform.start."""
        started = time.monotonic()
        measurement = image.measurement
        image.signature.verify(measurement)
        process = SimulatedProcess(image, measurement, debug, self.root, self.secret)
        try:
            process.wait_until_ready(self.name, require, started)
        except BaseException:
            process.stop()
            raise
        return process


class SimulatedProcess:
    """A worker process and the host's end of its channel."""

    report: LaunchReport

    def __init__(
        self,
        image: EnclaveImage,
        measurement: bytes,
        debug: bool,
        root: SimulatedRoot,
        secret: SimulatedPlatformSecret,
    ) -> None:
        self._image, self.measurement, self._root, self._secret = image, measurement, root, secret
        signature = image.signature
        self._identity = (measurement, signature.mr_signer, signature.product_id, signature.svn, debug)
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as given:
            host = [file for file in image.files if file.name.startswith(f"{HOST}/")]
            self._watched = [kept.enter_context(contextlib.closing(HostFile(file))) for file in host]
            self._errors: IO[bytes] = kept.enter_context(tempfile.TemporaryFile())
            self._own, theirs = socket.socketpair()
            kept.callback(self._own.close)
            given.callback(theirs.close)
            for end in (self._own, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BUFFER)
            script = _sealed("loader", [image.file(LOADER).read()])
            given.callback(os.close, script)
            archive = write_archive(image)
            given.callback(os.close, archive)
            self._process = self._start(script, archive, theirs.fileno())
            self._resources = kept.pop_all()
        self.transport = Stream(self._own.fileno(), self._own.fileno())

    def _start(self, script: int, archive: int, channel: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-S", "-B", "-X", "pycache_prefix=/proc/none", f"/proc/self/fd/{script}"]
        try:
            return subprocess.Popen(
                [*command, "simulated", str(archive), str(channel)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env={"LC_ALL": "C"},
                pass_fds=(script, archive, channel),
            )
        except OSError as error:
            raise LaunchError(f"no process could be started: {error}") from error

    def wait_until_ready(self, platform: str, require: Sequence[str], started: float) -> None:
        """Take the worker's first message and hold it against the image and what is required."""
        try:
            ready = first_word(self.transport)
        except ClosedError:
            raise LaunchError(f"the worker ended before it was ready: {self.death()}{self._said()}") from None
        if ready.kind != "ready":
            raise LaunchError(f"the worker began with a message {ready.kind!r}; its image is for another version")
        mechanisms = ready.fields["mechanisms"]
        unknown = [name for name in require if name not in mechanisms]
        if unknown:
            raise MechanismError(f"{', '.join(unknown)}: no such mechanism; there are {', '.join(mechanisms)}")
        lacking = [f"{name} ({mechanisms[name]})" for name in require if mechanisms[name]]
        if lacking:
            raise MechanismError(f"this host lacks what is required: {', '.join(lacking)}; require less")
        mapped = self._identify(ready)
        for watched in self._watched:
            watched.check()
        seconds = time.monotonic() - started
        self.report = LaunchReport(platform, mechanisms, mapped, ready.fields["threads"], seconds)

    def _identify(self, ready: Message) -> tuple[MappedFile, ...]:
        """The mapped files by their names in the image. Raises LaunchError for code that is not in it.

        Where the host's files could not be left behind, a library may have mapped data of theirs (the C++ runtime looks
        for debug information); they are listed by their path.
        """
        inside = {file.name: file.name for file in self._image.unpacked}
        outside = {watched.inode: watched.file.name for watched in self._watched}
        found = []
        for path, inode, size, executable in ready.fields["mapped"]:
            name = inside.get(_in_image(path)) or outside.get(inode)
            if name is None and not executable and ready.fields["mechanisms"][loader.PRIVATE_FILES]:
                name = path
            if name is None:
                raise LaunchError(f"the worker maps {path}, which is not in its image; build the image again")
            found.append(MappedFile(name, size, executable))
        return tuple(sorted(found, key=lambda each: -each.size))

    def quote(self, report_data: bytes) -> bytes:
        """See Process.quote."""
        return self._root.quote(*self._identity, report_data)

    def sealing_keys(self) -> SealingKeys:
        """See Process.sealing_keys."""
        return self._secret.keys(*self._identity)

    def collateral(self) -> str | None:
        """See Process.collateral."""
        return self._root.collateral()

    def alive(self) -> bool:
        """See Process.alive."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that waits for the worker."""
        return self._process.pid

    def death(self) -> str:
        """See Process.death."""
        try:
            code = self._process.wait(_SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return "its channel is closed, the process is still there"
        if code > 128 or code < 0:
            number = code - 128 if code > 128 else -code
            with contextlib.suppress(ValueError):
                return f"{signal.Signals(number).name}: {_ENDS.get(number, 'it was ended by a signal')}"
        return f"exit code {code}{_CODES.get(code, '')}"

    def _said(self) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f"\n{said}" if said else ""

    def stop(self) -> None:
        """See Process.stop."""
        if self._own.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._own.shutdown(socket.SHUT_RDWR)  # the worker ends with its channel; whoever waits here wakes up
            self.transport.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and its child with it
            self._process.wait()
        self._resources.close()


class HostFile:
    """A file that Python loads from the host: hashed once, and held open, so that a change until the worker is ready
    is noticed (inode, size, time of the last change, which only the kernel sets)."""

    def __init__(self, file: File) -> None:
        assert file.path is not None, "a host's file lies on the host"
        self.file, self._path = file, file.path
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._before = os.fstat(self._descriptor)
        self.inode = self._before.st_ino
        try:
            file.read()  # after the time of its last change was taken: every later change is seen
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises ImageError."""
        try:
            now = os.stat(self._path)
        except OSError as error:
            raise ImageError(f"{self._path} went away while it was loaded: {error}") from error
        before = self._before
        if [now.st_dev, now.st_ino, now.st_size, now.st_ctime_ns] != [
            before.st_dev,
            before.st_ino,
            before.st_size,
            before.st_ctime_ns,
        ]:
            raise ImageError(f"{self._path} was changed while it was loaded; start again")

    def close(self) -> None:
        os.close(self._descriptor)


def write_archive(image: EnclaveImage) -> int:
    """The files to unpack, each checked against its measured hash on the way, in a sealed memory file; its descriptor.

    Raises ImageError.
    """
    files = image.unpacked
    head = loader.pack([(file.name, file.size) for file in files])
    return _sealed("image", [head, *(file.read() for file in files)])


def _sealed(name: str, pieces: Sequence[bytes]) -> int:
    descriptor = os.memfd_create(f"privlib:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as output:
            output.writelines(pieces)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _in_image(path: str) -> str:
    """A path of the unpacked image, or of a private copy that the worker made of the artifact, as a name."""
    path = path.removesuffix(" (deleted)")
    if path.startswith("/memfd:privlib:"):
        return f"artifact/{path.removeprefix('/memfd:privlib:')}"
    parts = Path(path).parts
    start = 3 if path.startswith("/tmp/privlib-") else 1
    return "/".join(parts[start:])
