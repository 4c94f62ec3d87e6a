"""How much memory a call needs at its peak, measured in this process."""

import ctypes
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which resident memory at its peak during `call` exceeds that before it.

    Free memory that the allocator holds is given back first, and the kernel's high-water mark is reset (Linux,
    `clear_refs`), so earlier peaks do not hide this one. What a caller keeps in a pool of its own and uses again does
    not count twice: measure the first call of a fresh object.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    before = os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[1])
    call()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, "Linux always reports VmHWM"
    return max(0, 1024 * int(found[1]) - before)
