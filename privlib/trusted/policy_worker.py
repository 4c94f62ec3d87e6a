"""What serves in a policy enclave: like `privlib.trusted.worker`, for a provider's policy in place of a model.

Its image has no TVM and no artifact; it has `pyrevm`, an EVM in one shared library. For the simulated platform alone.
"""

import os
import sys
from pathlib import Path
from typing import Any

from privlib.trusted import evm
from privlib.trusted.bounded_json import read_json
from privlib.trusted.door import Door
from privlib.trusted.first_use import use_everything
from privlib.trusted.host import Host
from privlib.trusted.inbox import Inbox
from privlib.trusted.platform import SimulatedCpu
from privlib.trusted.policy_service import PolicyService
from privlib.trusted.process import OwnProcess
from privlib.trusted.protocol import MAXIMUM_FRAME, Message, Stream, encode
from privlib.trusted.serving import CONFIGURATION, CRASHED, close_in, serve

_PROBE = bytes.fromhex("6001600c60003960016000f35b")  # deployment code of a contract that does nothing


def main(folder: str, channel: tuple[int, int], mechanisms: dict[str, str]) -> None:
    """Serve from the image unpacked in `folder`, on descriptors (incoming, outgoing); never returns."""
    try:
        configuration = read_json(Path(folder, CONFIGURATION).read_bytes())
        process = OwnProcess()
        use_everything()
        evm.deploy(_PROBE)
        facts: dict[str, Any] = {"mechanisms": mechanisms, "mapped": []}
        stream = Stream(*channel, MAXIMUM_FRAME)
        memory = configuration["memory_bytes"]
        inbox = close_in(process, folder, stream, mechanisms, memory, facts, lambda: Inbox(stream))
        stream.send(encode(Message("ready", {**facts, "kind": "policy"})))
        platform = SimulatedCpu(Host(stream.send, inbox.receive))
        serve(stream, inbox, Door(PolicyService(platform), platform))
    finally:
        # Python's own end would make system calls that are no longer allowed.
        if sys.stderr is not None and sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(CRASHED)
