"""A worker that was taken over: what it tries from inside, once with everything on and once layer by layer."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from privlib.enclave.errors import EnclaveDied, RequestRefused
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import ALL_MECHANISMS, Enclave, launch
from privlib.enclave.signer import Signer
from privlib.trusted.protocol import Message
from tests.enclave.sources import SOURCES, clone, image_of

# A request that runs what it is told to: the worst worker there is.
TAKEN_OVER = '''

import ctypes, errno, socket, subprocess

def _attack(self, message, client):
    try:
        found = eval(compile(message.fields["code"], "attack", "eval"))
    except OSError as error:
        found = errno.errorcode[error.errno]
    return Message("result", {"found": found})

def syscall(number, *arguments):
    """A raw system call: its result, or the name of its error."""
    found = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    return errno.errorcode[ctypes.get_errno()] if found < 0 else found

LIBC = ctypes.CDLL(None, use_errno=True)
Service._attack = _attack
_before = Service.__init__
def _init(self, *arguments):
    _before(self, *arguments)
    self._handlers["attack"] = (self._attack, {"code"}, set())
Service.__init__ = _init
'''

# name: Python that does it (LIBC is loaded before the process is closed in)
ATTACKS = {
    "open a file for reading": "LIBC.open(b'/etc/passwd', 0)",
    "open a file of its own image": "LIBC.open(b'/configuration.json', 0)",
    "create a file": "LIBC.open(b'/out', 0o101, 0o600)",
    "open a socket": "LIBC.socket(2, 1, 0)",
    "connect to a host": "LIBC.connect(0, bytes(16), 16)",
    "listen to a port": "LIBC.bind(0, bytes(16), 16)",
    "run a program": "LIBC.execve(b'/bin/true', None, None)",
    "fork": "LIBC.fork()",
    "start a thread": "LIBC.syscall(56, 0x50f00, 0, 0, 0, 0)",
    "trace another process": "LIBC.ptrace(16, 1, 0, 0)",
    "read another process's memory": "LIBC.process_vm_readv(1, bytes(16), 1, bytes(16), 1, 0)",
    "signal another process": "LIBC.kill(1, 0)",
    "take a descriptor of another process": "LIBC.syscall(438, 0, 0, 0)",
    "make memory executable": "LIBC.syscall(10, 0, 4096, 4)",
    "map executable memory": "LIBC.syscall(9, 0, 4096, 7, 0x22, -1, 0)",
    "mount": "LIBC.mount(b'none', b'/', b'tmpfs', 0, None)",
    "leave for another namespace": "LIBC.setns(0, 0)",
    "become dumpable again": "LIBC.prctl(4, 1, 0, 0, 0)",
    "raise its own limits": "LIBC.setrlimit(7, bytes(16))",
    "write to another descriptor": "LIBC.syscall(20, 2, bytes(16), 0)",
    "load a kernel module": "LIBC.syscall(175, 0, 0, b'')",
    "use the io_uring": "LIBC.syscall(425, 1, bytes(120))",
    "make a system call of another interface": "LIBC.syscall(0x40000000 + 1, 0, 0, 0)",
}


@pytest.fixture(scope="module")
def taken_over(image: EnclaveImage, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> EnclaveImage:
    sources = clone(tmp_path_factory.mktemp("attack"))
    with open(sources / "privlib" / "trusted" / "service.py", "a") as file:
        file.write(TAKEN_OVER)
    attacker = image_of(sources, image, signer)
    assert attacker.measurement != image.measurement
    return attacker


ALONE = """
import ctypes, os, sys
from privlib.trusted import sandbox
LIBC = ctypes.CDLL(None, use_errno=True)
attacks = eval(sys.argv[1])
assert not sandbox.forbid_new_privileges()
for code in attacks:
    child = os.fork()
    if not child:
        assert not sandbox.seccomp(channel=1)
        eval(code)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_the_filter_alone_ends_every_one_of_them() -> None:
    """In bare processes, without a worker around: the same list at a hundredth of the cost."""
    attacks = ["6 * 7", *ATTACKS.values()]
    command = [sys.executable, "-c", ALONE, repr(attacks)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["0", *[str(-signal.SIGSYS)] * len(ATTACKS)], done.stderr


IN_EVERY_RUN = ("open a file for reading", "open a socket", "run a program", "fork", "write to another descriptor")


@pytest.mark.parametrize(
    "attack", [pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.soak) for name in ATTACKS]
)
def test_seccomp_ends_a_worker_that_tries_to(attack: str, taken_over: EnclaveImage) -> None:
    with launch(taken_over) as enclave:
        session = enclave.connect(None)
        assert session.request(Message("attack", {"code": "6 * 7"})).fields["found"] == 42
        with pytest.raises(EnclaveDied, match="SIGSYS: it made a system call outside its list"):
            session.request(Message("attack", {"code": ATTACKS[attack]}))
        with pytest.raises(EnclaveDied, match="SIGSYS"):
            session.status()
        assert not enclave.alive


@pytest.fixture(scope="module")
def without_seccomp(image: EnclaveImage, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    """The other layers alone: what they refuse, they refuse with an error."""
    sources = clone(tmp_path_factory.mktemp("attack"))
    with open(sources / "privlib" / "trusted" / "service.py", "a") as file:
        file.write(TAKEN_OVER)
    worker = sources / "privlib" / "trusted" / "serving.py"
    text, wanted = worker.read_text(), "sandbox.seccomp(stream.incoming)"
    assert wanted in text
    worker.write_text(text.replace(wanted, "'left out by a test'"))
    required = [name for name in ALL_MECHANISMS if name != "seccomp"]
    with launch(image_of(sources, image, signer), require=required) as enclave:
        assert enclave.report.missing == {"seccomp": "left out by a test"}
        yield enclave


LAYERS = {
    "limits: no new descriptors": ("syscall(41, 2, 1, 0)", "EMFILE"),
    "private files: the host's are gone": ("syscall(21, b'/etc/passwd', 0)", "ENOENT"),
    "private files: nor can they be reached by /proc": ("syscall(21, b'/proc/1/root', 0)", "EACCES"),
    "no capabilities: no mount": ("syscall(165, b'none', b'/', b'tmpfs', 0, None)", "EPERM"),
    "no capabilities: no other namespace": ("syscall(272, 0x40000000)", "EPERM"),
    "no capabilities: no other user": ("syscall(105, 12345)", "EINVAL"),
    "pid namespace: no other process is there": ("syscall(62, 12345, 0)", "ESRCH"),
    "landlock: no file is removed": ("syscall(87, b'/configuration.json')", "EACCES"),
    "landlock: no folder is made": ("syscall(83, b'/folder', 0o700)", "EACCES"),
    "no other descriptors: none but the channel": (
        "[n for n in range(4096) if isinstance(syscall(72, n, 1), int)] == [self._stream._incoming]",
        True,
    ),
    "not dumpable": ("syscall(157, 3, 0, 0, 0, 0)", 0),
    "no new privileges": ("syscall(157, 39, 0, 0, 0, 0)", 1),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_each_other_layer_holds_by_itself(layer: str, without_seccomp: Enclave) -> None:
    code, expected = LAYERS[layer]
    assert without_seccomp.connect(None).request(Message("attack", {"code": code})).fields["found"] == expected


def test_a_test_key_of_the_noise_is_refused_inside(
    training_image: EnclaveImage, signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sources = clone(tmp_path_factory.mktemp("attack"))
    with open(sources / "privlib" / "trusted" / "service.py", "a") as file:
        file.write(TAKEN_OVER)
    with launch(image_of(sources, training_image, signer)) as enclave:
        session = enclave.connect(None)
        with pytest.raises(RequestRefused, match="TrainingError: inside an enclave the noise has no test key"):
            session.request(Message("attack", {"code": "self._loaded.use_test_key(bytes(32))"}))
        assert session.request(Message("attack", {"code": "self._loaded.private"})).fields["found"] is True


def test_more_memory_than_its_limit_is_refused_inside(taken_over: EnclaveImage) -> None:
    with launch(taken_over) as enclave:
        session = enclave.connect(None)
        with pytest.raises(RequestRefused, match="MemoryError"):
            session.request(Message("attack", {"code": "len(bytearray(1 << 32))"}))
        assert session.request(Message("attack", {"code": "len(bytearray(1 << 28))"})).fields["found"] == 1 << 28
