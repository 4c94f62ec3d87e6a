"""The kernel notebooks run in: always the interpreter that started privlib, whatever their metadata names.

Nothing is installed for it: the kernel's specification lives in memory, its sockets and IPython's profile in a
temporary folder, so that no start-up file of the user changes a result. Run as a program, this module is that kernel.
"""

import ctypes
import importlib
import os
import signal
import sys

KERNEL_NAME = "privlib"
PARENT = "PRIVLIB_KERNEL_PARENT"
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel killed by the operating system when the process that started it ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the process that started this kernel has already ended")


def main() -> None:
    """Run an IPython kernel with the connection file named on the command line."""
    die_with_parent(int(os.environ.pop(PARENT)))
    # Imported before there is an IPython kernel, tqdm.auto settles for plain text instead of widgets, which nobody
    # could see in a headless run.
    importlib.import_module("tqdm.auto")
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


if __name__ == "__main__":
    main()
