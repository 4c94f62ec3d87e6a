"""Write requirements.lock: what pip resolves for every dependency and extra of pyproject.toml together.

    python3.11 tools/lock.py

A temporary virtual environment is made and thrown away. The lock has no hashes, no index addresses and no local
versions, so that a CPU build of torch is taken where pip finds one; what only torch's GPU build pulls in is left to it.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ACCELERATOR_ONLY = re.compile(r"^(nvidia-|cuda-|triton\b|pytorch-triton)")


def requirements(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Every requirement, the extras' after the project's own."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    return list(dict.fromkeys([*project["dependencies"], *(each for extra in extras for each in extra)]))


def pins(frozen: str) -> list[str]:
    """`name==version` lines of `pip freeze`, sorted, without local versions and GPU-only packages."""
    found = []
    for line in frozen.splitlines():
        name, equals, version = line.partition("==")
        if not equals:
            raise SystemExit(f"cannot pin {line!r}: it was not installed by name and version")
        if not ACCELERATOR_ONLY.match(name.lower()):
            found.append(f"{name.lower().replace('_', '-').replace('.', '-')}=={version.partition('+')[0]}")
    return sorted(found)


def main() -> None:
    """Resolve, install, freeze, write."""
    with tempfile.TemporaryDirectory(prefix="privlib-lock-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements()], check=True)
        command = [python, "-m", "pip", "freeze", "--all", "--exclude", "pip"]
        frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    header = f"# Made by `make lock` from pyproject.toml with Python {version}: all extras together. Do not edit.\n"
    LOCK.write_text(header + "\n".join(pins(frozen)) + "\n", encoding="utf-8")
    print(f"{LOCK.name}: {len(pins(frozen))} packages")


if __name__ == "__main__":
    main()
