"""The system calls a closed-in worker may make, as a program for the kernel's filter machine.

Classic BPF over struct seccomp_data {int nr; u32 arch; u64 instruction_pointer; u64 args[6]} (seccomp(2)).
Whatever is not allowed kills the process: a worker never makes such a call, so whoever does is not the worker.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# x86-64, arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS = {
    "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigreturn": 15, "readv": 19, "writev": 20,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39, "exit": 60, "futex": 202, "restart_syscall": 219,
    "clock_gettime": 228, "exit_group": 231, "getrandom": 318,
}  # fmt: skip
KILL, ALLOW = 0x80000000, 0x7FFF0000
_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64; calls of the x32 interface have bit 30 set and match no number
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


@dataclass(frozen=True)
class Masked:
    """An argument's low 32 bits under `mask` must be one of `values`; the high ones must be zero."""

    index: int
    mask: int
    values: tuple[int, ...]


def program(plain: Iterable[int], conditional: Mapping[int, Masked]) -> bytes:
    """Calls in `plain` are allowed, those in `conditional` if their argument fits; others kill the process."""
    code = [_load(_ARCHITECTURE_AT), _jump(_ARCHITECTURE, 1, 0), _return(KILL), _load(_NUMBER_AT)]
    for number in plain:
        code += [_jump(number, 0, 1), _return(ALLOW)]
    for number, condition in conditional.items():
        at = _ARGUMENTS_AT + 8 * condition.index
        block = [_load(at + 4), _jump(0, 1, 0), _return(KILL), _load(at), _instruction(_AND, condition.mask)]
        for value in condition.values:
            block += [_jump(value, 0, 1), _return(ALLOW)]
        block.append(_return(KILL))
        code += [_jump(number, 0, len(block)), *block]
    return b"".join([*code, _return(KILL)])


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, constant)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _jump(constant: int, if_true: int, if_false: int) -> bytes:
    return _instruction(_EQUAL, constant, if_true, if_false)


def _return(action: int) -> bytes:
    return _instruction(_RETURN, action)
