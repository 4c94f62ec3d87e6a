"""The same image under Gramine, in a real SGX enclave: its files, a manifest that trusts each by its hash, its runner.

Gramine measures its own library OS together with the manifest, so an enclave's MRENCLAVE is Gramine's and not the
image's; `stage` lays both out, `gramine-sgx-sign` computes it. Quotes come from /dev/attestation, read inside.
Sources: Gramine's documentation, "Manifest syntax" and "Attestation and Secret Provisioning".
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privlib.enclave.errors import LaunchError, LaunchTimeout
from privlib.enclave.image import EnclaveImage
from privlib.enclave.inventory import HOST, LOADER, File
from privlib.enclave.platforms.base import LaunchReport, first_word
from privlib.enclave.signer import Signer
from privlib.files import atomic_path
from privlib.trusted.loader import SYSTEM
from privlib.trusted.protocol import ClosedError, Stream
from privlib.trusted.sealing import SealingKeys

NAME = "privlib"
_DEVICE = Path("/dev/sgx_enclave")
# Gramine brings a C library of its own, which takes these places.
_OF_GRAMINE = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2")
_RUNTIME = "{{ gramine.runtimedir() }}"
_SPARE_BYTES = 1 << 30  # library OS, Python, packages
_HELPER_THREADS = 5  # Gramine's own, and the one that listens
_MRENCLAVE_AT = 960  # in SIGSTRUCT, Intel SDM 3D, table 38-21


class GraminePlatform:
    """Enclaves run by `gramine-sgx`.

    signer: signs for Gramine; None for this user's own key. It must be the one that signed the image.
    """

    name = "gramine"

    def __init__(self, signer: Signer | None = None) -> None:
        self._signer = signer

    def missing(self) -> str:
        programs = ("gramine-sgx", "gramine-sgx-sign", "gramine-manifest")
        absent = [program for program in programs if shutil.which(program) is None]
        if absent:
            return f"{', '.join(absent)} not found; install Gramine"
        return "" if _DEVICE.exists() else f"{_DEVICE} does not exist: no SGX, or its driver is not loaded"

    def start(self, image: EnclaveImage, *, debug: bool, require: Sequence[str]) -> "GramineProcess":
        """See Platform.start. `require` is for platforms that protect by parts; SGX is whole."""
        started = time.monotonic()
        signer = self._signer or Signer.of_this_user()
        image.signature.verify(image.measurement)
        if signer.sign(image.measurement, 1, 1).mr_signer != image.signature.mr_signer:
            raise LaunchError("the image is signed by another key; give GraminePlatform the signer that signed it")
        folder = Path(tempfile.mkdtemp(prefix="privlib-gramine-"))
        try:
            stage(image, folder, debug=debug)
            (folder / "signer.pem").touch(0o600)
            (folder / "signer.pem").write_bytes(signer.pem())
            template, manifest = f"{NAME}.manifest.template", f"{NAME}.manifest"
            _run(["gramine-manifest", template, manifest], folder)
            sign = ["gramine-sgx-sign", "--manifest", manifest, "--output", f"{manifest}.sgx", "--key", "signer.pem"]
            _run(sign, folder)
            (folder / "signer.pem").unlink()
            return GramineProcess(folder, started)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


class GramineProcess:
    """A worker in SGX; the channel is its standard input and output."""

    def __init__(self, folder: Path, started: float) -> None:
        self._folder = folder
        self.measurement = (folder / f"{NAME}.sig").read_bytes()[_MRENCLAVE_AT : _MRENCLAVE_AT + 32]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(
            ["gramine-sgx", NAME], cwd=folder, bufsize=0, stdin=pipe, stdout=pipe, stderr=nowhere
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._pipes = (self._process.stdout, self._process.stdin)
        self.transport = Stream(self._pipes[0].fileno(), self._pipes[1].fileno())
        try:
            ready = first_word(self.transport)
        except ClosedError:
            self.stop()
            raise LaunchError(f"the worker ended before it was ready: {self.death()}") from None
        except LaunchTimeout:
            self.stop()
            raise
        if ready.kind != "ready":
            self.stop()
            raise LaunchError(f"the worker began with a message {ready.kind!r}; its image is for another version")
        self.report = LaunchReport(GraminePlatform.name, {}, (), 0, time.monotonic() - started)

    def quote(self, report_data: bytes) -> bytes:
        """See Process.quote."""
        raise LaunchError("under Gramine quotes are made inside")

    def sealing_keys(self) -> SealingKeys:
        """See Process.sealing_keys."""
        raise LaunchError("under Gramine the processor gives the sealing keys, inside")

    def collateral(self) -> str | None:
        """See Process.collateral."""
        return None

    def alive(self) -> bool:
        """See Process.alive."""
        return self._process.poll() is None

    def death(self) -> str:
        """See Process.death."""
        try:
            return f"gramine-sgx ended with exit code {self._process.wait(5)}"
        except subprocess.TimeoutExpired:
            return "its channel is closed, the process is still there"

    def stop(self) -> None:
        """See Process.stop."""
        self.transport.close()
        for pipe in self._pipes:
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def stage(image: EnclaveImage, folder: Path, *, debug: bool = False, threads: int | None = None) -> Path:
    """Write `image/` and `privlib.manifest.template` into `folder`, for Gramine's tools; returns the template's path.

    Every file is checked against its measured hash as it is written. threads: that may run inside, None for one a CPU.
    """
    for file in _inside(image):
        target = folder / "image" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read())
    template = folder / f"{NAME}.manifest.template"
    with atomic_path(template) as temporary:
        temporary.write_text(manifest_template(image, debug=debug, threads=threads or os.cpu_count() or 1))
    return template


def manifest_template(image: EnclaveImage, *, debug: bool, threads: int) -> str:
    """The manifest, as a template for `gramine-manifest`: TOML, with the places of Gramine's own files left open.

    Every file is trusted by its hash and none is allowed without one; the command line and the environment are fixed;
    the host's files that Python loads are mounted where it looks for them.
    """
    host = [file for file in image.files if file.name.startswith(f"{HOST}/") and _keeps(file)]
    python = next(file for file in host if file.name.startswith(f"{HOST}/python"))
    libraries = sorted({str(_path(file).parent) for file in host if ".so" in file.name})
    arguments = [str(python.path), "-I", "-S", "-B", "-X", "pycache_prefix=/proc/none", f"/image/{LOADER}", "gramine"]
    mounts = [("/lib", _RUNTIME), ("/image", "image"), *((str(file.path), str(file.path)) for file in host)]
    trusted = [(f"image/{file.name}", file.sha256) for file in _inside(image)]
    trusted += [(str(file.path), file.sha256) for file in host]
    level = json.loads(image.file("artifact/manifest.json").read())["level"]
    values: dict[str, Any] = {
        "loader.entrypoint": "file:{{ gramine.libos }}",
        "loader.log_level": "error",
        "loader.argv": arguments,
        "loader.env.LC_ALL": "C",
        "loader.env.LD_LIBRARY_PATH": ":".join(["/lib", *libraries]),
        "libos.entrypoint": str(python.path),
        "sys.stack.size": "8M",
        "sys.brk.max_size": "64M",
        "sys.disallow_subprocesses": True,
        "sgx.debug": debug,
        "sgx.remote_attestation": "dcap",
        "sgx.isvprodid": image.signature.product_id,
        "sgx.isvsvn": image.signature.svn,
        "sgx.max_threads": threads + _HELPER_THREADS,
        "sgx.enclave_size": f"{_power_of_two(image.configuration['memory_bytes'] + _SPARE_BYTES) >> 20}M",
        "sgx.require_avx": True,
        "sgx.require_avx512": level == "x86-64-v4",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    lines += ["", "fs.mounts = ["]
    lines += [f"  {{ path = {json.dumps(path)}, uri = {json.dumps(f'file:{source}')} }}," for path, source in mounts]
    lines += ["]", "", "sgx.trusted_files = [", '  "file:{{ gramine.libos }}",', f'  "file:{_RUNTIME}/",']
    lines += [f"  {{ uri = {json.dumps(f'file:{path}')}, sha256 = {json.dumps(sha)} }}," for path, sha in trusted]
    return "\n".join([f"# {NAME}: image {image.measurement.hex()}", *lines, "]", ""])


def _inside(image: EnclaveImage) -> list[File]:
    return [file for file in image.unpacked if _keeps(file)]


def _keeps(file: File) -> bool:
    folder, _, name = file.name.partition("/")
    return folder not in (HOST, SYSTEM) or name not in _OF_GRAMINE


def _path(file: File) -> Path:
    assert file.path is not None, "a host's file lies on the host"
    return file.path


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise LaunchError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
