"""The first code of an enclave's process, run as a script by a bare Python: it takes what belongs to the process away,
unpacks the measured image where nobody else can reach it, and hands over to the worker.

    python -I -S -B loader.py simulated ARCHIVE CHANNEL     descriptors: the sealed image, the channel to the host
    python -I -S -B loader.py gramine                       the image lies beside this file; channel: stdin, stdout

It uses nothing but what Python loads by itself, and ctypes: that much comes from the host's files, before they are left
behind; all the rest comes from the image. It never executes a program after it has left the user
namespace: then a peer of the same user could open its /proc/PID/mem (ptrace(2): the check is made against the user
namespace of the last execve).
"""

import ctypes
import os
import sys

NAMESPACES = {
    "user namespace": 0x10000000,
    "mount namespace": 0x00020000,
    "pid namespace": 0x20000000,
    "network namespace": 0x40000000,
    "ipc namespace": 0x08000000,
}
PRIVATE_FILES = "private file system"
PYTHON, SYSTEM = "python", "system"  # folders of the image: the standard library; shared libraries of the system
PATH = (PYTHON, f"{PYTHON}/lib-dynload", "site", "app")  # folders of the image that modules are imported from
POLICY_MARK = "policy"  # a file of this name makes it a policy enclave's image
_HEADER_BYTES = 16
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_MNT_DETACH, _PIVOT_ROOT = 2, 155
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _SIGKILL = 1, 4, 9

libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Never returns."""
    sys.dont_write_bytecode = True
    if arguments[0] == "gramine":
        folder, mechanisms, channel = os.path.dirname(os.path.abspath(__file__)), {}, (0, 1)
    else:
        archive, socket = int(arguments[1]), int(arguments[2])
        mechanisms = leave_namespaces()
        become_child(archive, socket)
        folder = private_folder(mechanisms)
        unpack(archive, folder)
        os.close(archive)
        if not mechanisms[PRIVATE_FILES]:
            leave_host_files(folder)
            folder = "/"
        channel = (socket, socket)
    import_from(folder)
    os.environ.clear()
    # Threads made while libraries load would escape Landlock, which covers only a thread and those it makes.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # A policy enclave's image has no worker that trains, and no TVM.
    if os.path.exists(os.path.join(folder, POLICY_MARK)):
        from privlib.trusted import policy_worker

        policy_worker.main(folder, channel, mechanisms)
    from privlib.trusted import worker

    worker.main(folder, channel, mechanisms)


def leave_namespaces() -> dict[str, str]:
    """Leave each namespace that may be left; returns why not for each, empty where it was."""
    uid, gid, mechanisms = os.geteuid(), os.getegid(), {}
    for name, flag in NAMESPACES.items():
        mechanisms[name] = "" if libc.unshare(flag) == 0 else os.strerror(ctypes.get_errno())
    if not mechanisms["user namespace"]:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{file}", "w") as handle:
                handle.write(text)
    return mechanisms


def become_child(archive: int, socket: int) -> None:
    """Go on in a child, which is in the new pid namespace; the parent keeps nothing, and ends as the child ends."""
    libc.prctl(_PR_SET_DUMPABLE, 0)
    child = os.fork()
    if not child:
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        return
    os.close(archive)
    os.close(socket)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)  # 128 + signal, as shells say it


def private_folder(mechanisms: dict[str, str]) -> str:
    """An empty folder: in a file system that only this process sees, or else readable for this user alone."""
    flags = _MS_NOSUID | _MS_NODEV
    failed = mechanisms["mount namespace"]
    if not failed and (
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        or libc.mount(b"tmpfs", b"/tmp", b"tmpfs", flags, b"mode=0700")
    ):
        failed = os.strerror(ctypes.get_errno())
    mechanisms[PRIVATE_FILES] = failed
    if not failed:
        return "/tmp"
    folder = f"/tmp/privlib-{os.urandom(16).hex()}"
    os.mkdir(folder, 0o700)
    return folder


def leave_host_files(folder: str) -> None:
    """Make `folder`, a mount of this process's own, the root of the file system, with /proc in it and nothing else of
    the host's."""
    os.mkdir(os.path.join(folder, "proc"))
    os.chdir(folder)
    if (
        libc.mount(b"/proc", b"proc", None, _MS_BIND | _MS_REC, None)
        or libc.syscall(_PIVOT_ROOT, b".", b".")
        or libc.umount2(b".", _MNT_DETACH)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    os.chdir("/")


def import_from(folder: str) -> None:
    """From now on modules and shared libraries come from the image in `folder`."""
    sys.path[:] = [os.path.join(folder, part) for part in PATH]
    sys.path_importer_cache.clear()
    for name, module in list(sys.modules.items()):
        if hasattr(module, "__path__"):  # a package that Python loaded before: its other modules come from the image
            module.__path__ = [os.path.join(folder, PYTHON, *name.split("."))]
    # A library loaded by its path is found again by its name, so each is loaded once those that it needs are.
    system = os.path.join(folder, SYSTEM)
    waiting = [os.path.join(system, name) for name in sorted(os.listdir(system))] if os.path.isdir(system) else []
    while waiting:
        left = [path for path in waiting if not _loads(path)]
        if left == waiting:
            raise OSError(f"these libraries of the image do not load: {', '.join(left)}")
        waiting = left


def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True


def pack(files: "list[tuple[str, int]]") -> bytes:
    """The head of an archive of files with these names and sizes; their bytes follow in this order."""
    lines = "".join(f"{size} {name}\n" for name, size in files).encode()
    return str(len(lines)).zfill(_HEADER_BYTES).encode() + lines


def unpack(archive: int, folder: str) -> None:
    """Write the files of an archive beneath `folder`."""
    length = int(os.pread(archive, _HEADER_BYTES, 0))
    offset = _HEADER_BYTES + length
    for line in os.pread(archive, length, _HEADER_BYTES).decode().splitlines():
        size, _, name = line.partition(" ")
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        output = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        end = offset + int(size)
        while offset < end:
            moved = os.sendfile(output, archive, offset, end - offset)
            if not moved:
                raise OSError(f"the image ends within {name}")
            offset += moved
        os.close(output)


if __name__ == "__main__":
    main(sys.argv[1:])
