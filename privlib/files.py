"""Where cached files live, and how a file appears whole or not at all."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir(*parts: str) -> Path:
    """Folder of the cache, created with its parents: `$PRIVLIB_CACHE`, `$XDG_CACHE_HOME/privlib` or `~/.cache/privlib`.

    `parts` name a subfolder, e.g. `cache_dir("artifacts")`.
    """
    root = os.environ.get("PRIVLIB_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "privlib"
    folder = base.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step (fsync, rename), else it goes.

    A reader, a crash or a full disk therefore never sees half a file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_private(path: Path, text: str) -> str:
    """Write a file that only its owner reads (mode 0600), unless it exists; returns what stands there afterwards.

    Several processes may try at once: one of them wins, whole, and all return the same.
    """
    if path.exists():
        return path.read_text()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return path.read_text()
    finally:
        temporary.unlink()
    return text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
