"""What serves inside an enclave: it loads the artifact, closes itself in, says so, and answers messages until its
channel ends.

Order, after the loader's: load; drop capabilities, dumps and privileges; Landlock, while there is one thread; start
TVM's threads with a first run; read what is mapped; limit resources; close other descriptors; seccomp in all threads.
Only then does it take a message, so it has never held a secret in the open.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from privlib.trusted import artifact, sandbox
from privlib.trusted.loader import PRIVATE_FILES
from privlib.trusted.model import CompiledModel
from privlib.trusted.process import OwnProcess
from privlib.trusted.protocol import MAXIMUM_FRAME, Message, Stream, encode
from privlib.trusted.runtime import threads_later, use_all_cores
from privlib.trusted.service import Service, serve
from privlib.trusted.training import TrainingStep

CONFIGURATION, ARTIFACT = "configuration.json", "artifact"
CRASHED = 70  # EX_SOFTWARE
_FILES_OF_GRAMINE = "/dev/attestation"


def main(folder: str, channel: tuple[int, int], mechanisms: dict[str, str]) -> None:
    """Serve from the image unpacked in `folder`, on descriptors (incoming, outgoing); never returns.

    mechanisms: what the loader tried, as of `loader.leave_namespaces`; empty where the platform isolates by itself.
    """
    try:
        configuration = json.loads(Path(folder, CONFIGURATION).read_text())
        process = OwnProcess() if mechanisms else None
        with threads_later():
            loaded = artifact.load(Path(folder, ARTIFACT), guarded=process is None)
        if isinstance(loaded, TrainingStep):
            loaded.refuse_test_keys()
        facts: dict[str, Any] = {"mechanisms": mechanisms, "mapped": []}
        if process is None:
            start_threads(loaded)
        else:
            facts |= close_in(loaded, process, folder, channel[0], mechanisms, configuration["memory_bytes"])
        stream = Stream(*channel, MAXIMUM_FRAME)
        stream.send(encode(Message("ready", {**facts, "kind": loaded.manifest["kind"]})))
        serve(stream, Service(loaded, stream, configuration, _FILES_OF_GRAMINE if process is None else None))
    finally:
        # Python's own end would make system calls that are no longer allowed.
        if sys.stderr is not None and sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(CRASHED)


def close_in(
    loaded: CompiledModel | TrainingStep,
    process: OwnProcess,
    folder: str,
    channel: int,
    mechanisms: dict[str, str],
    memory_bytes: int,
) -> dict[str, Any]:
    """Close this process in and start TVM's threads on the way; returns what to report.

    `mechanisms` gets an entry for every step: empty, or why the host does not have it.
    """
    if mechanisms[PRIVATE_FILES]:
        remove(folder)
    mechanisms[sandbox.CAPABILITIES] = sandbox.drop_capabilities()
    mechanisms[sandbox.DUMPABLE] = sandbox.forbid_dumps()
    mechanisms[sandbox.PRIVILEGES] = sandbox.forbid_new_privileges()
    mechanisms[sandbox.LANDLOCK] = sandbox.landlock(process.threads())
    start_threads(loaded)
    files, whole = process.mapped()
    threads = process.threads()
    process.close()
    mechanisms[sandbox.LIMITS] = sandbox.limit_resources(whole + memory_bytes)
    sys.stdin = sys.stdout = sys.stderr = None  # their descriptors are closed next
    mechanisms[sandbox.DESCRIPTORS] = sandbox.close_descriptors(channel)
    mechanisms[sandbox.SECCOMP] = sandbox.seccomp(channel)
    mapped = [[file.path, file.inode, file.size, file.executable] for file in files]
    return {"mapped": mapped, "threads": threads}


def start_threads(loaded: CompiledModel | TrainingStep) -> None:
    """One run on zeros with every core: what starts lazily stands before the process is closed in."""
    use_all_cores()
    if isinstance(loaded, CompiledModel):
        loaded.run(np.zeros((loaded.batch_size, *loaded.input_shape), loaded.dtype))
        return
    views = (loaded.augmentations,) if loaded.augmentations > 1 else ()
    images = np.zeros((loaded.batch_size, *views, *loaded.input_shape), np.float32)
    loaded.mean_loss(images, np.zeros(loaded.batch_size, np.int64))


def remove(folder: str) -> None:
    """Delete the unpacked image; what is mapped stays."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            os.rmdir(os.path.join(parent, name))
    os.rmdir(folder)
