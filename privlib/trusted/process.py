"""What a process knows of itself: its threads and what is mapped, through descriptors that still work once it is closed
in."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Mapping:
    """A mapped file: its path as the process sees it, inode, and bytes of address space, `executable` of them code."""

    path: str
    inode: int
    size: int
    executable: int


class OwnProcess:
    """Open before the process leaves /proc; use until `close`."""

    def __init__(self) -> None:
        self._maps, self._status = (os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("maps", "status"))

    def threads(self) -> int:
        """How many threads there are now."""
        line = next(line for line in _text(self._status).splitlines() if line.startswith("Threads:"))
        return int(line.split()[1])

    def mapped(self) -> tuple[list[Mapping], int]:
        """The files mapped now, by path, and the size in bytes of the whole address space (proc_pid_maps(5))."""
        files: dict[tuple[str, int], tuple[int, int]] = {}
        whole = 0
        for line in _text(self._maps).splitlines():
            addresses, rights, _, _, inode, *path = line.split(None, 5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            whole += end - start
            if path and inode != "0":
                size, executable = files.get((path[0], int(inode)), (0, 0))
                code = end - start if "x" in rights else 0
                files[path[0], int(inode)] = size + end - start, executable + code
        found = [Mapping(path, inode, *sizes) for (path, inode), sizes in sorted(files.items())]
        return found, whole

    def close(self) -> None:
        os.close(self._maps)
        os.close(self._status)


def _text(descriptor: int) -> str:
    pieces: list[bytes] = []
    while piece := os.pread(descriptor, 1 << 20, sum(map(len, pieces))):
        pieces.append(piece)
    return b"".join(pieces).decode(errors="replace")
