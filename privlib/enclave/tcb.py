"""The trusted computing base in bytes and lines, and PyTorch's beside it, counted by the same rule."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from privlib.enclave.inventory import HOST, File


@dataclass(frozen=True)
class Component:
    """native_bytes: shared libraries and programs; python_lines: of sources whose bytecode is loaded; data_bytes."""

    name: str
    native_bytes: int
    python_lines: int
    data_bytes: int = 0


@dataclass(frozen=True)
class Tcb:
    """What has to be trusted, by component, largest first. Lines are counted for Python alone: how many lines of C++
    are behind a library, its bytes do not say."""

    components: tuple[Component, ...]

    @property
    def native_bytes(self) -> int:
        return sum(component.native_bytes for component in self.components)

    @property
    def python_lines(self) -> int:
        return sum(component.python_lines for component in self.components)

    def without_python(self) -> "Tcb":
        """All but the interpreter and its standard library."""
        return Tcb(tuple(each for each in self.components if each.name != "Python"))

    @classmethod
    def of(cls, files: Iterable[File]) -> "Tcb":
        """Grouped by package; Python itself is one component, and so are the system's libraries."""
        groups: dict[str, list[File]] = {}
        for file in files:
            groups.setdefault(_component(file.name), []).append(file)
        found = [_count(name, members) for name, members in groups.items()]
        return cls(tuple(sorted(found, key=lambda each: (-each.native_bytes, -each.python_lines, each.name))))


def pytorch_tcb() -> Tcb:
    """What `import torch` alone loads in a fresh process: module sources and files mapped as code."""
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, check=True)
    files: list[tuple[str, str]] = json.loads(done.stdout)
    counted: dict[str, Component] = {}
    for name, path in files:
        lines, size = (0, Path(path).stat().st_size)
        if path.endswith(".py"):
            lines, size = Path(path).read_bytes().count(b"\n"), 0
        old = counted.get(name, Component(name, 0, 0))
        counted[name] = Component(name, old.native_bytes + size, old.python_lines + lines)
    return Tcb(tuple(sorted(counted.values(), key=lambda each: (-each.native_bytes, -each.python_lines, each.name))))


_TORCH = """
import json, sys, sysconfig
import torch
from pathlib import Path
standard, site = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
with open("/proc/self/maps") as maps:
    paths |= {row[5].strip() for row in (line.split(None, 5) for line in maps) if len(row) == 6 and "x" in row[1]}
found = []
for path in sorted(each for each in paths if each and each.startswith("/") and Path(each).is_file()):
    in_site = path.startswith(site)
    name = Path(path).relative_to(site).parts[0].partition(".")[0] if in_site else "system"
    found.append((name if in_site or not (path.startswith(standard) or "python" in path) else "Python", path))
print(json.dumps(found))
"""


def _component(name: str) -> str:
    folder, _, rest = name.partition("/")
    if folder in (HOST, "python"):
        return "system" if rest.startswith(("libc.", "libm.", "ld-", "libffi")) else "Python"
    if folder == "site":
        return rest.partition("/")[0].partition(".")[0]
    return "privlib" if folder in ("app", "loader.py") else folder


def _count(name: str, files: list[File]) -> Component:
    native = sum(file.size for file in files if not file.source and _is_code(file.name))
    data = sum(file.size for file in files if not file.source and not _is_code(file.name))
    return Component(name, native, sum(file.lines for file in files), data)


def _is_code(name: str) -> bool:
    return ".so" in name or name.startswith(f"{HOST}/")
