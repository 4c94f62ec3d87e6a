"""The same jobs on an existing Dask cluster: the notebook travels to a worker, its record travels back.

No shared file system is needed. The Dask worker starts the same worker process as a local run, with its own
interpreter; privlib has to be installed there. The record names the system it ran on.
"""

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from privlib.suite.errors import ClusterError
from privlib.suite.worker import Outcome, run_job

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def connect(address: str, results: Path, stop: threading.Event) -> Iterator[Callable[..., Outcome | None]]:
    """An executor that runs jobs on the cluster whose scheduler is at `address`.

    Raises:
        ClusterError: `distributed` is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, Event
    except ImportError as error:
        raise ClusterError("--scheduler needs Dask: pip install 'privlib[cluster]'.") from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {error}") from error
    name = f"privlib-stop-{uuid4().hex}"
    event = Event(name, client=client)

    def execute(
        notebook: str, job: str, stopped: Callable[[], bool], announce: Callable[[int, int], None]
    ) -> Outcome | None:
        source = Path(json.loads(job)["notebook"]).read_bytes()
        future = client.submit(run_remotely, notebook, job, source, name, pure=False, key=f"{notebook}-{uuid4().hex}")
        while not future.done():
            if stopped():
                event.set()
            time.sleep(_POLL_SECONDS)
        outcome, folder, files = future.result()
        if outcome is None or folder is None:
            return outcome
        return Outcome(notebook, outcome.status, outcome.reason, str(_unpack(results, folder, files)), outcome.seconds)

    try:
        yield execute
    finally:
        if stop.is_set():
            event.set()
        client.close()


def run_remotely(
    notebook: str, job: str, source: bytes, stop_event: str
) -> tuple[Outcome | None, str | None, dict[str, bytes]]:
    """On a Dask worker: run the job in a temporary folder; its outcome, the record's relative path, and its files."""
    from distributed import Event, get_worker

    event = Event(stop_event, client=get_worker()._get_client())
    checked = [time.monotonic(), False]

    def stopped() -> bool:
        # Asking the scheduler takes a message: once a second is enough.
        if not checked[1] and time.monotonic() - checked[0] > 1:
            checked[:] = [time.monotonic(), event.is_set()]
        return bool(checked[1])

    with tempfile.TemporaryDirectory(prefix="privlib-job-") as temporary:
        local: dict[str, Any] = json.loads(job)
        results = Path(temporary, "results")
        path = Path(temporary, "notebooks", Path(local["notebook"]).name)
        path.parent.mkdir()
        path.write_bytes(source)
        if not Path(local["root"]).is_dir():
            local["root"] = temporary
        local.update(notebook=str(path), results=str(results))
        outcome = run_job(notebook, json.dumps(local), stopped, lambda cell, cells: None)
        if outcome is None or outcome.folder is None:
            return outcome, None, {}
        folder = Path(outcome.folder)
        files = {
            file.relative_to(results).as_posix(): file.read_bytes() for file in results.rglob("*") if file.is_file()
        }
        return outcome, folder.relative_to(results).as_posix(), files


def _unpack(results: Path, folder: str, files: dict[str, bytes]) -> Path:
    target = results / folder
    partial = target.parent / f".partial-{os.getpid()}-{uuid4().hex}"
    for name, content in files.items():
        inside = Path(name).is_relative_to(folder)
        path = partial / Path(name).relative_to(folder) if inside else results / name
        if inside or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for attempt in range(1000):
        final = target if attempt == 0 else target.with_name(f"{target.name}-{attempt}")
        if not final.exists():
            os.rename(partial, final)
            return final
    raise ClusterError(f"a thousand records named {target.name} are already in {target.parent}; move some away.")
