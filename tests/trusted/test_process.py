"""What a process knows of itself is what the system says of it."""

import os
import threading

import psutil

from privlib.trusted.process import OwnProcess


def test_the_mapped_files_are_the_systems() -> None:
    own = OwnProcess()
    found, whole = own.mapped()
    expected = {each.path: each.size for each in psutil.Process().memory_maps() if each.path.startswith("/")}
    paths = {each.path.removesuffix(" (deleted)") for each in found if each.path.startswith("/")}
    assert paths == {path.removesuffix(" (deleted)") for path in expected}
    assert abs(whole - psutil.Process().memory_info().vms) < 64 << 20
    code = {each.path for each in found if each.executable}
    assert any("libtvm_ffi.so" in path for path in code) and os.path.realpath("/proc/self/exe") in code
    own.close()


def test_threads_are_counted_when_asked() -> None:
    own, stop = OwnProcess(), threading.Event()
    before = own.threads()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert own.threads() == before + 3
    stop.set()
    for thread in threads:
        thread.join()
    assert own.threads() <= before + 3
    own.close()
