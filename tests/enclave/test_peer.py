"""A curious process of the same ordinary user: what it can do to any other process, it cannot do to an enclave."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from privlib.enclave.image import EnclaveImage
from tests.enclave import ordinary_user
from tests.enclave.sources import SOURCES

PEER = """
import ctypes, errno, json, os, sys
LIBC = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])

def call(function, *arguments):
    found = function(*arguments)
    return errno.errorcode[ctypes.get_errno()] if found < 0 else "done"

def opened(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(f"/proc/{pid}/{path}", flags))
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]

class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def reads():
    buffer = ctypes.create_string_buffer(16)
    own, theirs = Piece(ctypes.addressof(buffer), 16), Piece(int(sys.argv[2]), 16)
    return call(LIBC.process_vm_readv, pid, ctypes.byref(own), 1, ctypes.byref(theirs), 1, 0)

def takes_descriptor():
    return call(LIBC.syscall, 438, LIBC.syscall(434, pid, 0), 1, 0)

results = {
    "process_vm_readv": reads(),
    "/proc/PID/mem for reading": opened("mem"),
    "/proc/PID/mem for writing": opened("mem", os.O_WRONLY),
    "/proc/PID/maps": opened("maps"),
    "/proc/PID/environ": opened("environ"),
    "/proc/PID/auxv": opened("auxv"),
    "/proc/PID/root": opened("root/proc"),
    "/proc/PID/fd": opened("fd/1"),
    "/proc/PID/map_files": opened("map_files"),
    "/proc/PID/ns/mnt": opened("ns/mnt"),
    "/proc/PID/stack": opened("syscall"),
    "pidfd_getfd": takes_descriptor(),
    "ptrace": call(LIBC.ptrace, 16, pid, None, None),
}
print(json.dumps(results))
"""

USER = """
import ctypes, json, pickle, subprocess, sys
import numpy as np, psutil
from privlib.enclave.launcher import ALL_MECHANISMS, launch

def attack(pid, address):
    command = [sys.executable, "-I", "-S", sys.argv[2], str(pid), str(address)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)

with open(sys.argv[1], "rb") as file:
    image = pickle.load(file)
waits = "import ctypes; b = ctypes.create_string_buffer(b'secret'); print(ctypes.addressof(b), flush=True); input()"
ordinary = subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
address = int(ordinary.stdout.readline())
with launch(image, require=ALL_MECHANISMS) as enclave:
    session = enclave.connect(None)
    before = session.infer(np.ones((2, 3, 32, 32), np.float32))
    waiter = psutil.Process(enclave._process.pid)
    (worker,) = waiter.children()
    found = {"worker": attack(worker.pid, address), "waiter": attack(waiter.pid, address)}
    same = bool((session.infer(np.ones((2, 3, 32, 32), np.float32)) == before).all())
found["ordinary"] = attack(ordinary.pid, address)
ordinary.kill()
ordinary.wait()
import os
print(json.dumps({"found": found, "same": same, "user": os.getuid()}))
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that the other user can read and write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_a_peer_of_the_same_ordinary_user_gets_nowhere(image: EnclaveImage, shared: Path) -> None:
    (shared / "image").write_bytes(pickle.dumps(image))
    (shared / "peer.py").write_text(PEER)
    command = [sys.executable, "-c", USER, str(shared / "image"), str(shared / "peer.py")]
    if os.getuid() == 0:
        folders = [sys.base_prefix, sysconfig.get_path("purelib"), str(SOURCES)]
        command = [sys.executable, ordinary_user.__file__, *folders, "--", *command]
    own = {"PYTHONPATH": str(SOURCES), "HOME": str(shared), "PRIVLIB_CACHE": str(shared / "cache")}
    environment = {**os.environ, **own}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=shared)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["user"] != 0 and result["same"]
    # The same attempts on a process that is not closed in succeed: they are real.
    assert set(result["found"]["ordinary"].values()) == {"done"}, result["found"]
    for target in ("worker", "waiter"):
        assert set(result["found"][target].values()) <= {"EPERM", "EACCES"}, (target, result["found"][target])
