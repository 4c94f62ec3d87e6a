"""What every worker does around its requests, whatever it serves: it closes itself in, and answers until its channel
ends.

Order, after the loader's: drop capabilities, dumps and privileges; Landlock, while there is one thread; start the other
threads; read what is mapped; limit resources; close other descriptors; seccomp in all threads.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from privlib.errors import PrivlibError
from privlib.trusted import sandbox
from privlib.trusted.door import Door, refusal
from privlib.trusted.inbox import Inbox
from privlib.trusted.loader import PRIVATE_FILES
from privlib.trusted.process import OwnProcess
from privlib.trusted.protocol import ClosedError, ProtocolError, Stream, decode, encode

CONFIGURATION = "configuration.json"
CRASHED = 70  # EX_SOFTWARE


def close_in(
    process: OwnProcess,
    folder: str,
    stream: Stream,
    mechanisms: dict[str, str],
    memory_bytes: int,
    facts: dict[str, Any],
    start: Callable[[], Inbox],
) -> Inbox:
    """Close this process in; `start` starts all threads on the way.

    `mechanisms` gets an entry for every step: empty, or why the host does not have it; `facts` gets what to report.
    """
    if mechanisms[PRIVATE_FILES]:
        remove(folder)
    mechanisms[sandbox.CAPABILITIES] = sandbox.drop_capabilities()
    mechanisms[sandbox.DUMPABLE] = sandbox.forbid_dumps()
    mechanisms[sandbox.PRIVILEGES] = sandbox.forbid_new_privileges()
    mechanisms[sandbox.LANDLOCK] = sandbox.landlock(process.threads())
    inbox = start()
    files, whole = process.mapped()
    facts["mapped"] = [[file.path, file.inode, file.size, file.executable] for file in files]
    facts["threads"] = process.threads()
    process.close()
    mechanisms[sandbox.LIMITS] = sandbox.limit_resources(whole + memory_bytes)
    sys.stdin = sys.stdout = sys.stderr = None  # their descriptors are closed next
    mechanisms[sandbox.DESCRIPTORS] = sandbox.close_descriptors(stream.incoming)
    mechanisms[sandbox.SECCOMP] = sandbox.seccomp(stream.incoming)
    return inbox


def serve(stream: Stream, inbox: Inbox, door: Door) -> None:
    """Answer until the other end is gone, which ends the process. A frame over the limit is answered and ends it too,
    since nobody can say where the next one begins."""
    while True:
        try:
            payload = inbox.receive_request()
        except ClosedError:
            os._exit(0)
        except ProtocolError as error:
            stream.send(encode(refusal(error)))
            os._exit(os.EX_PROTOCOL)
        try:
            answer = encode(door.answer(decode(payload)))
            del payload
            stream.send(answer)
        except ClosedError:
            os._exit(0)
        except (PrivlibError, MemoryError) as error:
            stream.send(encode(refusal(error)))


def remove(folder: str) -> None:
    """Delete the unpacked image; what is mapped stays."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            os.rmdir(os.path.join(parent, name))
    os.rmdir(folder)
