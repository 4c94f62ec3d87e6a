"""A process closes itself in before it sees a secret: what Linux offers for that, in the order that works.

Every step returns "" or the reason why it is not available on this host; nothing is skipped silently. What this stops:
a curious peer process, and a compromised worker that wants to write out what it knows. What it does not stop: root and
the kernel, the adversary that SGX is made for.
"""

import ctypes
import os
import resource
import struct

from privlib.trusted import bpf
from privlib.trusted.loader import libc

CAPABILITIES, DUMPABLE, PRIVILEGES = "no capabilities", "not dumpable", "no new privileges"
LANDLOCK, LIMITS, DESCRIPTORS, SECCOMP = "landlock", "resource limits", "no other descriptors", "seccomp"
_PR_SET_DUMPABLE, _PR_GET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 3, 24, 38
_CAPSET, _SECCOMP, _CREATE_RULESET, _RESTRICT_SELF = 126, 317, 444, 446
_CAPABILITY_VERSION_3, _LAST_CAPABILITY = 0x20080522, 40
_LANDLOCK_ABI = 4  # the first that covers TCP beside files
_PROT_EXEC = 4
_SET_MODE_FILTER, _TSYNC = 1, 1
# getpid: OpenSSL looks before every random number whether the process was forked.
_PLAIN = ("munmap", "brk", "rt_sigreturn", "sched_yield", "mremap", "madvise", "exit", "futex", "restart_syscall",
          "clock_gettime", "exit_group", "getpid", "getrandom")  # fmt: skip


def _result(returned: int) -> str:
    return "" if returned >= 0 else os.strerror(ctypes.get_errno())


def drop_capabilities() -> str:
    """No capability, neither now nor after an exec (capabilities(7))."""
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # needs a privilege itself; the sets below need none
    header, nothing = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    return _result(libc.syscall(_CAPSET, header, nothing))


def forbid_dumps() -> str:
    """No peer of the same user may trace this process, read its memory or take its descriptors (prctl(2))."""
    failed = _result(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    return failed or ("" if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 else "the process is still dumpable")


def forbid_new_privileges() -> str:
    """No exec gains anything (prctl(2)); Landlock and seccomp ask for it."""
    return _result(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def landlock(threads: int) -> str:
    """No file can be opened or changed, no TCP port bound or connected to (landlock(7)), by this thread and those it
    makes from now on; since ABI 6 no signals and no abstract sockets to the outside either.

    threads: how many stand now; it must be one, since others would escape.
    """
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < _LANDLOCK_ABI:
        return f"ABI {abi}, needs {_LANDLOCK_ABI}" if abi > 0 else os.strerror(ctypes.get_errno())
    if threads != 1:
        return f"{threads} threads stand already and would escape it"
    files = (1 << (16 if abi >= 5 else 15)) - 1  # ABI 5: device ioctls
    handled = struct.pack("=QQQ", files, 3, 3)[: 24 if abi >= 6 else 16]
    ruleset = libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if ruleset < 0:
        return os.strerror(ctypes.get_errno())
    failed = _result(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    return failed


def limit_resources(address_space_bytes: int) -> str:
    """At most this much address space; no new descriptors, processes, threads, files or core dumps (setrlimit(2))."""
    limits = {"AS": address_space_bytes, "NOFILE": 0, "NPROC": 0, "FSIZE": 0, "CORE": 0, "MEMLOCK": 0}
    try:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def close_descriptors(keep: int) -> str:
    """Close every descriptor but `keep`."""
    os.closerange(0, keep)
    os.closerange(keep + 1, 1 << 20)
    return ""


def seccomp(channel: int) -> str:
    """From now on, in all threads: read and write on `channel`, memory that is never executable, locks, the end."""
    plain = [bpf.NUMBERS[name] for name in _PLAIN]
    on_channel, not_executable = bpf.Masked(0, 0xFFFFFFFF, (channel,)), bpf.Masked(2, _PROT_EXEC, (0,))
    conditional = {bpf.NUMBERS[name]: on_channel for name in ("readv", "writev")}
    conditional |= {bpf.NUMBERS[name]: not_executable for name in ("mmap", "mprotect")}
    return install(bpf.program(plain, conditional))


def install(code: bytes) -> str:
    """Install a filter in all threads of this process (seccomp(2), with TSYNC)."""
    buffer = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    found = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _TSYNC, pointer)
    return _result(found) if found <= 0 else f"thread {found} could not be filtered"
