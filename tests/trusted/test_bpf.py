"""The filter, run by an interpreter of classic BPF written from its manual: every number, arguments at the edges."""

import struct

import pytest

from privlib.trusted import bpf

X86_64, I386 = 0xC000003E, 0x40000003


def verdict(code: bytes, number: int, arguments: tuple[int, ...] = (0,) * 6, architecture: int = X86_64) -> int:
    """What the kernel would return: BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_ALU|AND|K, BPF_RET|K (linux/filter.h)."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    while True:
        operation, if_true, if_false, constant = instructions[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x15:
            at += if_true if accumulator == constant else if_false
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x06:
            return int(constant)
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


@pytest.fixture(scope="module")
def code() -> bytes:
    return bpf.program([1, 60, 202], {9: bpf.Masked(2, 4, (0,)), 20: bpf.Masked(0, 0xFFFFFFFF, (7, 8))})


def test_every_call_that_is_not_listed_kills(code: bytes) -> None:
    allowed = {number for number in range(1024) if verdict(code, number) == bpf.ALLOW}
    assert allowed == {1, 9, 60, 202}
    assert {verdict(code, number) for number in range(1024)} == {bpf.ALLOW, bpf.KILL}


@pytest.mark.parametrize("number", [1, 9, 60, 202, 20])
def test_other_interfaces_of_the_kernel_kill(code: bytes, number: int) -> None:
    assert verdict(code, number, (7,) * 6, I386) == bpf.KILL
    assert verdict(code, number | 0x40000000, (7,) * 6) == bpf.KILL


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [(7, True), (8, True), (6, False), (0, False), (7 | 1 << 32, False), (1 << 63 | 8, False), (2**64 - 1, False)],
)
def test_an_argument_must_be_one_of_the_values_in_all_its_bits(code: bytes, descriptor: int, expected: bool) -> None:
    assert (verdict(code, 20, (descriptor, 0, 0, 0, 0, 0)) == bpf.ALLOW) is expected


@pytest.mark.parametrize(
    ("rights", "expected"), [(0, True), (3, True), (4, False), (7, False), (5, False), (1 << 34, False)]
)
def test_memory_is_never_executable(code: bytes, rights: int, expected: bool) -> None:
    assert (verdict(code, 9, (0, 4096, rights, 0, 0, 0)) == bpf.ALLOW) is expected
