"""Foundry's anvil: the binary from npm, kept in privlib's cache, and its process, which never outlives this one."""

import os
import platform
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from privlib.files import atomic_path, cache_dir
from privlib.progress import Progress, silent
from privlib.sterling.chain.errors import NodeError

VERSION = "1.7.1"
_PLATFORMS = {"x86_64": "linux-amd64", "aarch64": "linux-arm64"}
_NPM_SECONDS = 900
_START_SECONDS = 180
_STOP_SECONDS = 30
# The shell ends with the node, and the node with the shell's standard input: when this process goes, however it goes.
_WITH_US = """
exec 3<&0
"$@" </dev/null 3<&- & node=$!
{ read _ <&3; kill $node; } >/dev/null 2>&1 & watch=$!
wait $node
kill $watch 2>/dev/null
"""
_LISTENING = re.compile(r"Listening on (127\.0\.0\.1):(\d+)")


def anvil_binary(progress: Progress = silent) -> Path:
    """The binary: from the cache, or fetched into it with `npm pack`. Raises NodeError."""
    kept = cache_dir("anvil") / f"anvil-{VERSION}"
    if not kept.exists():
        _fetch(kept, progress)
    return kept


class Node:
    """A running anvil. host and port: where it answers, on this machine alone."""

    def __init__(self, binary: Path, options: Sequence[str] = ()) -> None:
        """Raises NodeError where it does not start."""
        command = ["sh", "-c", _WITH_US, "sh", str(binary), "--host", "127.0.0.1", "--port", "0", *options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._listening: list[tuple[str, int]] = []
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._known.wait(_START_SECONDS)
        if not self._listening:
            self.stop()
            raise NodeError(f"anvil did not start: {' '.join(self._said[-5:]) or 'no word'}")
        self.host, self.port = self._listening[0]

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # the shell leads a session of its own, the node is in it
            self._process.wait()
        self._reader.join(_STOP_SECONDS)
        self._process.stdout.close()

    def _read(self) -> None:
        """What it says: kept until it says where it listens, then thrown away, so that the pipe never fills."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not self._known.is_set():
                self._said.append(line.strip())
                if found := _LISTENING.search(line):
                    self._listening.append((found[1], int(found[2])))
                    self._known.set()
        self._known.set()


def _fetch(kept: Path, progress: Progress) -> None:
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in _PLATFORMS:
        raise NodeError(f"anvil comes from npm for Linux on {' and '.join(_PLATFORMS)}; put a binary at {kept}")
    client = shutil.which("npm")
    if client is None:
        raise NodeError(f"npm is not on PATH: install Node.js with npm, or put anvil {VERSION} at {kept}")
    package = f"@foundry-rs/anvil-{_PLATFORMS[machine]}@{VERSION}"
    what = f"npm pack {package}"
    progress(what, 0, 1)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=kept.parent) as folder:
        command = [client, "pack", package, "--silent", "--ignore-scripts", "--fetch-retries=1"]
        try:
            result = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NodeError(f"npm brought nothing in {_NPM_SECONDS} s; check its registry") from error
        packages = list(Path(folder).glob("*.tgz"))
        if result.returncode != 0 or len(packages) != 1:
            last = " ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
            raise NodeError(f"`{what}` failed ({result.returncode}): {last or 'no word'}")
        _unpack(packages[0], kept)
    progress(what, 1, 1)


def _unpack(package: Path, kept: Path) -> None:
    try:
        with tarfile.open(package, "r:gz") as archive:
            content = archive.extractfile("package/bin/anvil")
            if content is None:
                raise NodeError(f"{package.name} has no anvil in it")
            with atomic_path(kept) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(content, file)
            kept.chmod(0o755)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise NodeError(f"{package.name} is cut or damaged ({error}); try again") from error
