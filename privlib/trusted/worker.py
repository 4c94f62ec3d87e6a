"""What serves inside an enclave: it loads the artifact, closes itself in, says so, and answers messages until its
channel ends.

Order, after the loader's: load; drop capabilities, dumps and privileges; Landlock, while there is one thread; start
TVM's threads with a first run; read what is mapped; limit resources; close other descriptors; seccomp in all threads.
Only then does it take a message, so it has never held a secret in the open.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from privlib.trusted import artifact
from privlib.trusted.bounded_json import read_json
from privlib.trusted.door import Door
from privlib.trusted.first_use import use_everything
from privlib.trusted.host import Host
from privlib.trusted.inbox import Inbox
from privlib.trusted.model import CompiledModel
from privlib.trusted.platform import GramineFiles, Platform, SimulatedCpu
from privlib.trusted.process import OwnProcess
from privlib.trusted.protocol import MAXIMUM_FRAME, Message, Stream, encode
from privlib.trusted.runtime import threads_later, use_all_cores
from privlib.trusted.service import Service
from privlib.trusted.serving import CONFIGURATION, CRASHED, close_in, serve
from privlib.trusted.training import TrainingStep

ARTIFACT = "artifact"
_FILES_OF_GRAMINE = Path("/dev/attestation")


def main(folder: str, channel: tuple[int, int], mechanisms: dict[str, str]) -> None:
    """Serve from the image unpacked in `folder`, on descriptors (incoming, outgoing); never returns.

    mechanisms: what the loader tried, as of `loader.leave_namespaces`; empty where the platform isolates by itself.
    """
    try:
        configuration = read_json(Path(folder, CONFIGURATION).read_bytes())
        process = OwnProcess() if mechanisms else None
        with threads_later():
            loaded = artifact.load(Path(folder, ARTIFACT), guarded=process is None)
        use_everything()
        if isinstance(loaded, TrainingStep):
            loaded.refuse_test_keys()
        facts: dict[str, Any] = {"mechanisms": mechanisms, "mapped": []}
        stream = Stream(*channel, MAXIMUM_FRAME)
        if process is None:
            inbox = start_threads(loaded, stream)
        else:
            start = partial(start_threads, loaded, stream)
            inbox = close_in(process, folder, stream, mechanisms, configuration["memory_bytes"], facts, start)
        stream.send(encode(Message("ready", {**facts, "kind": loaded.manifest["kind"]})))
        host = Host(stream.send, inbox.receive)
        platform: Platform = GramineFiles(_FILES_OF_GRAMINE) if process is None else SimulatedCpu(host)
        serve(stream, inbox, Door(Service(loaded, stream, inbox, host, platform, configuration), platform))
    finally:
        # Python's own end would make system calls that are no longer allowed.
        if sys.stderr is not None and sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(CRASHED)


def start_threads(loaded: CompiledModel | TrainingStep, stream: Stream) -> Inbox:
    """The inbox, and one run on zeros with every core: what starts lazily stands before the process is closed in."""
    inbox = Inbox(stream)
    use_all_cores()
    if isinstance(loaded, CompiledModel):
        loaded.run(np.zeros((loaded.batch_size, *loaded.input_shape), loaded.dtype))
        return inbox
    views = (loaded.augmentations,) if loaded.augmentations > 1 else ()
    images = np.zeros((loaded.batch_size, *views, *loaded.input_shape), np.float32)
    loaded.mean_loss(images, np.zeros(loaded.batch_size, np.int64))
    return inbox
