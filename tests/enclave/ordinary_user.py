"""Run as root: `python ordinary_user.py FOLDER… -- COMMAND…` runs the command as an ordinary user that can reach the
folders, even where they lie beneath one closed to others (as /root is): they are mounted there again, for it alone.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

USER = 65534
NEW_MOUNTS, BIND, RECURSIVE, PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: Path, target: Path, kind: str = "none", flags: int = BIND, options: str = "") -> None:
    if LIBC.mount(bytes(source), bytes(target), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def closed_above(folder: Path) -> Path | None:
    """The first folder on the way to this one that others may not pass."""
    return next((each for each in [*reversed(folder.parents), folder] if not each.stat().st_mode & 1), None)


def reach(folders: list[Path]) -> None:
    if LIBC.unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "no mount namespace")
    mount(Path("none"), Path("/"), flags=RECURSIVE | PRIVATE)
    behind = [(folder, gate) for folder in folders if (gate := closed_above(folder))]
    kept = []
    for folder, _ in behind:
        kept.append(Path(tempfile.mkdtemp()))
        mount(folder, kept[-1])
    for gate in {gate for _, gate in behind}:
        mount(Path("none"), gate, "tmpfs", 0, "mode=755")
    for (folder, _), keep in zip(behind, kept, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        mount(keep, folder)
        LIBC.umount2(bytes(keep), 0)
        keep.rmdir()


if __name__ == "__main__":
    split = sys.argv.index("--")
    reach([Path(each) for each in sys.argv[1:split]])
    os.umask(0o022)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])
