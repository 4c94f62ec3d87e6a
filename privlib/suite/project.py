"""Where notebooks, benchmarks and results are, and what state of the source produced a run."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TypedDict

from privlib.suite.errors import ProjectError

PACKAGE_PARENT = Path(__file__).resolve().parents[2]


class GitState(TypedDict):
    """Commit and whether tracked or new files differ from it; both None outside a git checkout."""

    sha: str | None
    dirty: bool | None


def find_root() -> Path:
    """Folder that holds `notebooks/` and `benchmarks/`: `$PRIVLIB_PROJECT`, else the nearest above the working
    directory, else the checkout this package was imported from.

    Raises:
        ProjectError: there is no such folder.
    """
    named = os.environ.get("PRIVLIB_PROJECT")
    if named:
        root = Path(named).expanduser().resolve()
        if not root.is_dir():
            raise ProjectError(f"PRIVLIB_PROJECT names {named!r}, which is not a folder. Unset it or correct it.")
        return root
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, PACKAGE_PARENT):
        if (folder / "notebooks").is_dir() and ((folder / "results").is_dir() or (folder / "benchmarks").is_dir()):
            return folder
    raise ProjectError(
        f"no folder with notebooks/ beside results/ or benchmarks/ at or above {here}. "
        "Change into a checkout of privlib, or set PRIVLIB_PROJECT to one."
    )


def git_state(root: Path) -> GitState:
    """Commit of `root` and whether anything but results differs from it."""
    try:
        sha = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return {"sha": None, "dirty": None}
    return {"sha": sha, "dirty": bool(changed)}


def lock_digest(root: Path) -> str | None:
    """SHA-256 (hex) of `requirements.lock`, None where there is none."""
    lock = root / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def display_path(path: Path | str, root: Path) -> str:
    """`path` as a record may show it: relative to the project or the home folder where it lies in one of them."""
    # The lexical path, because resolving .venv/bin/python would name the system's interpreter.
    lexical = Path(os.path.abspath(path))
    for base, prefix in ((root, ""), (Path.home(), "~/")):
        if lexical.is_relative_to(base) and base != Path("/"):
            return prefix + lexical.relative_to(base).as_posix()
    return lexical.as_posix()


def source_path() -> str | None:
    """Folder to put on PYTHONPATH so that a child process imports this privlib; None when it is installed normally."""
    return None if PACKAGE_PARENT.name in ("site-packages", "dist-packages") else str(PACKAGE_PARENT)


def child_environment() -> dict[str, str]:
    """This process's environment, with this privlib importable from any working directory."""
    environment = dict(os.environ)
    source = source_path()
    if source:
        rest = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != source]
        environment["PYTHONPATH"] = os.pathsep.join([source, *map(os.path.abspath, rest)])
    return environment


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
