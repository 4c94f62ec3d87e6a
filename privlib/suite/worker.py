"""A worker process seen from the runner: started, listened to, and never left behind."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from privlib.suite import project
from privlib.suite.records import remove_stale_below

_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2
# sun_path holds 108 bytes, and a kernel's socket adds about 50 to the folder for temporary files.
_LONGEST_SOCKET_BASE = 50

KERNEL_FOLDER = "PRIVLIB_KERNEL_FOLDER"


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `folder` holds its record; None when the worker died and there is none."""

    notebook: str
    status: str
    reason: str | None
    folder: str | None
    seconds: float


def run_job(
    notebook: str, job: str, stopped: Callable[[], bool], announce: Callable[[int, int], None]
) -> Outcome | None:
    """Run one job (a line of JSON) in a worker process; None when `stopped` became true before it ended."""
    begin = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        # The runner's own, so that nothing is left of it even when the worker is killed.
        tempfile.TemporaryDirectory(prefix="privlib-", dir=socket_base(), ignore_cleanup_errors=True) as folder,
    ):
        worker = subprocess.Popen(
            [sys.executable, "-m", "privlib.suite.execute"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env={**project.child_environment(), KERNEL_FOLDER: folder},
            start_new_session=True,
        )
        assert worker.stdin is not None and worker.stdout is not None
        answer: dict[str, object] | None = None
        pending, content = b"", b" "
        try:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.write(job.encode() + b"\n")
            while content:
                if stopped():
                    return None
                if not select.select([worker.stdout], [], [], _POLL_SECONDS)[0]:
                    continue
                content = os.read(worker.stdout.fileno(), 65536)
                *lines, pending = (pending + content).split(b"\n")
                for message in map(json.loads, lines):
                    if "status" in message:
                        answer = message
                    else:
                        announce(message["cell"], message["cells"])
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(_GRACE_SECONDS)
        finally:
            end_worker(worker)
            results = json.loads(job)["results"]
            remove_stale_below(results)
        seconds = time.monotonic() - begin
        if answer is None:
            log.seek(0)
            complaints = [line for line in log.read().splitlines() if line.strip()]
            why = f": {complaints[-1]}" if complaints else ""
            return Outcome(
                notebook, "failed", f"its worker process ended with code {worker.returncode}{why}", None, seconds
            )
        reason = answer["reason"]
        return Outcome(
            notebook, str(answer["status"]), None if reason is None else str(reason), str(answer["folder"]), seconds
        )


def socket_base() -> str:
    """Folder for temporary files whose path is short enough for the kernels' sockets."""
    base = tempfile.gettempdir()
    return base if len(base) <= _LONGEST_SOCKET_BASE else "/tmp"


def end_worker(worker: "subprocess.Popen[bytes]") -> None:
    """Ask a worker to clean up and go; kill it and all its descendants when it does not within ten seconds."""
    descendants = []
    if worker.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(worker.pid).children(recursive=True)
        worker.terminate()
        try:
            worker.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
