"""One notebook, executed by papermill and turned into a record. As a program: a worker that serves one job.

The worker reads a job as one line of JSON on standard input and answers with lines of JSON on standard output:
`{"cell": 3, "cells": 17}` while it runs and `{"folder": ..., "status": ..., "reason": ...}` at its end. SIGTERM, or the
end of standard input (the runner is gone), make it kill its kernel, remove the unfinished record and exit.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from privlib.suite import kernel, project, record, records, streams, worker
from privlib.suite.errors import RecordError
from privlib.suite.records import Run, Subject

EXECUTED = "executed.ipynb"
_START_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Job:
    """A notebook with the values of its parameters, and where its record goes."""

    notebook: str
    version: str
    parameters: dict[str, Any]
    profile: str
    command: list[str]
    root: str
    results: str

    def dumps(self) -> str:
        """The job as one line of JSON."""
        return json.dumps(asdict(self))


class _Specifications(KernelSpecManager):
    """One kernel, this interpreter, found without looking at any folder."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", kernel.__name__, "-f", "{connection_file}"],
            name=kernel.KERNEL_NAME,
            display_name="privlib's interpreter",
            language="python",
        )


class _Manager(AsyncKernelManager):
    """Local sockets instead of TCP ports: parallel kernels cannot take each other's port."""

    @default("kernel_spec_manager")
    def _specifications(self) -> KernelSpecManager:
        return _Specifications()

    @default("transport")
    def _local_sockets(self) -> str:
        return "ipc"

    @default("connection_file")
    def _keys(self) -> str:
        return str(Path(os.environ["JUPYTER_RUNTIME_DIR"], "connection.json"))

    @default("ip")
    def _socket_path(self) -> str:
        return str(Path(os.environ["JUPYTER_RUNTIME_DIR"], "kernel"))


def execute(job: Job, announce: Callable[[int, int], None]) -> Run:
    """Run `job` in a fresh kernel and write its record; a notebook that raises makes a record with status `failed`.

    Args:
        announce: called with the number of a cell and the count of cells when it starts.
    """
    path = Path(job.notebook)
    subject = Subject(path.stem, "notebook", job.version, job.profile, job.parameters, job.command)
    node = nbformat.read(path, as_version=4)
    with records.staging(Path(job.results), Path(job.root), subject) as run, _kernel_folder(run.folder):
        output = run.folder / EXECUTED
        reason = _papermill(node, output, path.parent, job.parameters, announce)
        executed = None
        if output.is_file():
            finished = _tidy(output, path.name)
            reason = reason or _unexecuted(finished)
            executed = {
                "file": EXECUTED,
                "interpreter": project.display_path(sys.executable, Path(job.root)),
                "python": sys.version.split()[0],
            }
        try:
            return run.commit("failed" if reason else "ok", reason, executed)
        except RecordError as error:
            # What the notebook recorded cannot be kept; that it ran, and why its record is empty, can.
            (run.folder / record.EVENTS).unlink(missing_ok=True)
            return run.commit("failed", str(error), executed)


def _papermill(
    node: NotebookNode, output: Path, folder: Path, values: dict[str, Any], announce: Callable[[int, int], None]
) -> str | None:
    # papermill guesses parameters by pattern and warns about what privlib has already checked by parsing.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    total = len(node.cells) + bool(values)
    begun = 0

    def on_cell_start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal begun
        begun += cell.cell_type == "code" and bool(cell.source.strip())
        announce(cell_index + 1, total)

    try:
        papermill.execute_notebook(
            node,
            # papermill formats this path with the parameters, so braces in a folder's name have to be doubled.
            str(output).replace("{", "{{").replace("}", "}}"),
            parameters=values or None,
            kernel_name=kernel.KERNEL_NAME,
            language="python",
            progress_bar=False,
            start_timeout=_START_TIMEOUT_SECONDS,
            cwd=folder,
            kernel_manager_class=_Manager,
            shutdown_kernel="immediate",
            on_cell_start=on_cell_start,
        )
    except PapermillExecutionError as error:
        return _one_line(f"cell {error.exec_count}: {error.ename}: {error.evalue}")
    except DeadKernelError:
        return f"the kernel died in cell {begun}"
    except RuntimeError as error:
        return _one_line(f"the kernel did not start: {error}")
    return None


@contextlib.contextmanager
def _kernel_folder(run_folder: Path) -> Iterator[None]:
    """Folder for sockets, keys and IPython's profile (the runner's, or one of our own), and an environment with it."""
    with contextlib.ExitStack() as stack:
        given = os.environ.get(worker.KERNEL_FOLDER)
        folder = given or stack.enter_context(tempfile.TemporaryDirectory(prefix="privlib-", dir=worker.socket_base()))
        settings = {
            "IPYTHONDIR": folder,
            "JUPYTER_RUNTIME_DIR": folder,
            record.RUN_FOLDER: str(run_folder),
            kernel.PARENT: str(os.getpid()),
            "PYTHONPATH": project.child_environment().get("PYTHONPATH", ""),
        }
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _tidy(output: Path, name: str) -> NotebookNode:
    node = nbformat.read(output, as_version=4)
    streams.clean(node)
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    # Absolute paths of this machine have no place in a page that is passed on.
    node.metadata.get("papermill", {}).update(input_path=name, output_path=EXECUTED)
    nbformat.write(node, output)
    return node


def _unexecuted(node: NotebookNode) -> str | None:
    for number, cell in enumerate(node.cells, 1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return f"cell {number} was not executed"
    return None


def _one_line(text: str, limit: int = 500) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def main() -> None:
    """Serve one job."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # Whatever else writes to standard output (a library, the kernel's C code) must not look like an answer.
    os.dup2(2, 1)

    def say(message: dict[str, object]) -> None:
        answers.write(json.dumps(message) + "\n")

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = Job(**json.loads(sys.stdin.readline()))
    signal.signal(signal.SIGTERM, lambda *_: _abandon(Path(job.results)))
    threading.Thread(target=_watch_standard_input, daemon=True).start()
    run = execute(job, lambda cell, cells: say({"cell": cell, "cells": cells}))
    say({"folder": str(run.folder), "status": run.data["status"], "reason": run.data["reason"]})


def _watch_standard_input() -> None:
    while sys.stdin.readline():
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _abandon(results: Path) -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for folder in results.glob(f"runs/*/*/.partial-{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    if worker.KERNEL_FOLDER in os.environ:
        shutil.rmtree(os.environ[worker.KERNEL_FOLDER], ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
