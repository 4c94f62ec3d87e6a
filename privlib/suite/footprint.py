"""How large is what has to be trusted: bytes of installed packages and files, counted where they lie."""

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from privlib.suite.errors import ProjectError


def package_bytes(distribution: str, names: Iterable[str] = ()) -> int:
    """Bytes that an installed distribution's files take; with `names`, only of files so called (e.g. a library).

    Compiled Python (`__pycache__`) does not count: whether it is there depends on what has run.

    Raises:
        ProjectError: the distribution is not installed, or a named file is not in it.
    """
    try:
        files = metadata.distribution(distribution).files
    except metadata.PackageNotFoundError as error:
        raise ProjectError(f"{distribution} is not installed here, so its size cannot be measured.") from error
    paths = [Path(str(file.locate())) for file in files or [] if "__pycache__" not in file.parts]
    wanted = set(names)
    missing = wanted - {path.name for path in paths}
    if missing:
        raise ProjectError(f"{distribution} has no file {', '.join(sorted(missing))}.")
    return sum(path.stat().st_size for path in paths if path.is_file() and (not wanted or path.name in wanted))


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
