"""Run as a script by a bare Python: finds out what a worker loads, and prints it as JSON.

    python -I -S -B survey.py ROOT…        ROOT: folders that hold the packages a worker may import

{"bootstrap": [file…], "modules": [[name, file]…], "libraries": [file…]}: module files that Python and the loader load
before the image is unpacked; modules imported after that, sources or shared libraries; other files mapped as code.
"""

import ctypes  # noqa: F401  # what the loader imports before the image is unpacked
import os
import sys

TYPE_CHECKING = False  # as in typing, which is not loaded this early
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# What runs in an enclave imports these packages and the standard library; an import of another one is as if it were
# not installed.
ALLOWED = ("numpy", "tvm", "tvm_ffi", "typing_extensions", "cryptography", "_cffi_backend", "privlib")


class Finder:
    """Finds on the path what belongs into an enclave; of privlib that is `trusted` alone."""

    def __init__(self, path_finder: "Any") -> None:
        self._path_finder = path_finder

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        top, _, rest = name.partition(".")
        own = top != "privlib" or rest in ("", "errors") or rest.split(".")[0] == "trusted"
        if not own or (top not in ALLOWED and top not in sys.stdlib_module_names):
            return None
        found: ModuleSpec | None = self._path_finder.find_spec(name, path, target)
        return found


def files() -> dict[str, str]:
    """Module name → file, of the modules loaded from files."""
    found = {}
    for name, module in sys.modules.items():
        # cryptography puts modules behind wrappers that warn of old names; those have no specification of their own.
        specification = getattr(getattr(module, "_module", module), "__spec__", None)
        if specification is not None and specification.has_location and name != "__main__":
            found[name] = specification.origin
    return found


def main(roots: list[str]) -> None:
    bootstrap = files()
    mapped_first = code_files()
    sys.meta_path[-1] = Finder(sys.meta_path[-1])  # the last one looks along the path
    sys.path += roots
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from privlib.trusted import first_use, runtime, worker  # noqa: F401

    runtime.tvm_runtime()
    first_use.use_everything()
    after = {name: file for name, file in files().items() if name not in bootstrap}
    mapped = code_files()
    import json

    report = {
        "bootstrap": sorted({*bootstrap.values(), *mapped_first}),
        "modules": sorted(after.items()),
        "libraries": sorted(mapped - mapped_first - set(after.values())),
    }
    print(json.dumps(report))


def code_files() -> set[str]:
    """Files mapped as code."""
    with open("/proc/self/maps") as maps:
        rows = [line.split(None, 5) for line in maps]
    return {row[5].strip() for row in rows if len(row) == 6 and "x" in row[1] and row[5].startswith("/")}


if __name__ == "__main__":
    main(sys.argv[1:])
