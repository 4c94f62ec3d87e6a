"""Huge pages: what is new gets them, what was there before does not, and nothing changes in either."""

import mmap
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from privlib.trusted import pages
from privlib.trusted.pages import HUGE_PAGE, NewMemory, new_memory

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def fresh(size: int) -> np.ndarray:
    """Bytes in a mapping of their own, not in memory that the allocator had at hand."""
    array = np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    array[:] = np.arange(size) % 251
    return array


def huge_bytes(array: np.ndarray) -> int:
    """Bytes of the array's mapping that lie in huge pages."""
    address, inside = array.ctypes.data + array.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the array lies in no mapping")


@pytest.mark.skipif(
    not _SETTING.exists() or "[never]" in _SETTING.read_text(), reason="this system has no transparent huge pages"
)
def test_only_new_memory_gets_huge_pages_and_keeps_its_values() -> None:
    if "[madvise]" not in _SETTING.read_text():
        pytest.skip("this system gives huge pages unasked")
    old = fresh(8 * HUGE_PAGE)
    memory = NewMemory()
    new = fresh(8 * HUGE_PAGE)
    before, expected = huge_bytes(old), new.copy()
    memory.use_huge_pages()
    assert huge_bytes(new) >= 6 * HUGE_PAGE, "MADV_COLLAPSE needs Linux 6.1"
    assert huge_bytes(old) == before
    np.testing.assert_array_equal(new, expected)


def test_ranges_lose_what_was_there_before() -> None:
    assert pages._without([(0, 10), (20, 30), (40, 50)], [(5, 6), (8, 22), (40, 50)]) == [(0, 5), (6, 8), (22, 30)]
    assert pages._without([(0, 10)], []) == [(0, 10)]


def test_a_system_that_does_not_tell_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(pages.os, "open", refused)
    NewMemory().use_huge_pages()


def test_nothing_is_opened_after_the_beginning_and_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker, which has closed itself in before its model first runs."""
    before = set(os.listdir("/proc/self/fd"))
    memory, unused = NewMemory(), NewMemory()
    new = fresh(4 * HUGE_PAGE)
    asked: list[int] = []
    advised = SimpleNamespace(madvise=lambda start, size, advice: asked.append(start.value))
    with monkeypatch.context() as patch:
        patch.setattr(pages.os, "open", lambda *_: pytest.fail("a worker opens nothing more"))
        patch.setattr(pages.ctypes, "CDLL", lambda _: advised)
        memory.use_huge_pages()
        assert any(new.ctypes.data <= start < new.ctypes.data + new.nbytes for start in asked)
        memory.use_huge_pages()
    del unused
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, 1, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 5])
def test_memory_for_messages_is_zeroed_and_of_its_size(size: int) -> None:
    memory = new_memory(size)
    assert memory.nbytes == size and not memory.readonly
    assert bytes(memory) == bytes(size)
    memory[size // 2 : size // 2 + 1] = b"x"[: min(size, 1)]


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="no room for"):
        new_memory(1 << 60)
