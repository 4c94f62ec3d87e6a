"""The verified copy of CIFAR-10 on disk: four `.npy` files that are memory-mapped, and a manifest written last.

The content is verified before it is written. Each file's size and modification time are noted in the manifest; as long
as they are unchanged the files are trusted as they are, otherwise all six MD5s are checked again. The files' content
is the same whatever the source, so two processes that write at once cannot mix anything up.
"""

import contextlib
import errno
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from privlib.data.errors import CorruptData, DataError
from privlib.data.layout import (
    IMAGES_PER_FILE,
    TEST_FILES,
    TRAIN_FILES,
    Bytes,
    digest,
    from_records,
    to_records,
    verify,
)
from privlib.files import atomic_path, cache_dir

SPLITS = {"train": TRAIN_FILES, "test": TEST_FILES}
NEEDED_BYTES = 600_000_000
"""Free space that a fetch asks for: archive or package, its temporary copy, and the files kept (185 MB)."""

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What the cache holds: source, SHA-256 of each split in the official layout, when it was fetched, what failed
    before (`notes`), and of each file its size in bytes and modification time in nanoseconds."""

    source: str
    digests: dict[str, str]
    fetched_at: str
    notes: list[str] = field(default_factory=list)
    stamps: dict[str, list[int]] = field(default_factory=dict)


def folder() -> Path:
    """Folder of the cached set, created if need be."""
    return cache_dir("cifar10")


@contextlib.contextmanager
def locked() -> Iterator[Path]:
    """Hold the cache for writing: one process at a time downloads. Yields its folder."""
    with open(folder() / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder()


def read_manifest() -> Manifest | None:
    """The manifest, or None when nothing was ever completed here; raises `CorruptData` when it cannot be read."""
    path = folder() / _MANIFEST
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**fields)
        if set(manifest.digests) != set(SPLITS) or set(manifest.stamps) != {path.name for path in _files()}:
            raise TypeError("fields of another version")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptData(f"{path} is not readable ({error}): {remedy()}") from error
    return manifest


def checked(*, thoroughly: bool = False) -> Manifest | None:
    """The manifest of a set that is complete and trusted, None when there is none.

    Raises `CorruptData` when files are missing, cut or changed. `thoroughly` checks the MD5s (about half a second)
    even where sizes and times are unchanged.
    """
    manifest = read_manifest()
    if manifest is None:
        return None
    missing = [path.name for path in _files() if not path.exists()]
    if missing:
        raise CorruptData(f"{folder()} lacks {', '.join(missing)}: {remedy()}")
    unchanged = manifest.stamps == _stamps()
    if thoroughly or not unchanged:
        verify(_records_by_file(), str(folder()), remedy())
    if not unchanged:
        with contextlib.suppress(OSError):  # a read-only cache is checked anew each time
            _write_manifest(Manifest(**(asdict(manifest) | {"stamps": _stamps()})))
    return manifest


def arrays(split: str) -> tuple[Bytes, Bytes]:
    """Memory-mapped images uint8 (N,32,32,3) and labels uint8 (N,) of a split; raises `CorruptData`."""
    count = len(SPLITS[split]) * IMAGES_PER_FILE
    loaded = []
    for path, shape in zip(_files_of(split), ((count, 32, 32, 3), (count,)), strict=True):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise CorruptData(f"{path} is cut or damaged ({error}): {remedy()}") from error
        if array.shape != shape or array.dtype != np.uint8:
            raise CorruptData(f"{path} holds {array.dtype} {array.shape}, expected uint8 {shape}: {remedy()}")
        loaded.append(array)
    return loaded[0], loaded[1]


def store(files: Mapping[str, Bytes], source: str, notes: list[str]) -> Manifest:
    """Verify the six files (records by name) and write them, whole or not at all; the caller holds the lock."""
    verify(files, source)
    for leftover in folder().glob(".*.npy.*"):  # of a process that was killed while it wrote
        leftover.unlink()
    digests = {}
    for split, names in SPLITS.items():
        images_path, labels_path = _files_of(split)
        parts = [from_records(files[name]) for name in names]
        _write_npy(images_path, [images for images, _ in parts])
        _write_npy(labels_path, [labels for _, labels in parts])
        digests[split] = digest([files[name] for name in names])
    manifest = Manifest(source, digests, datetime.now(UTC).isoformat(timespec="seconds"), notes, _stamps())
    _write_manifest(manifest)
    return manifest


def require_space() -> None:
    """Raise `DataError` unless a fetch fits on the disk."""
    free = shutil.disk_usage(folder()).free
    if free < NEEDED_BYTES:
        raise DataError(
            f"{folder()} has {free / 1e6:,.0f} MB free and fetching CIFAR-10 needs {NEEDED_BYTES / 1e6:,.0f} MB: "
            "free some space, or point PRIVLIB_CACHE at another disk"
        )


@contextlib.contextmanager
def explained_disk_errors() -> Iterator[None]:
    """Turn a full or read-only disk into a `DataError` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise DataError(
            f"cannot write CIFAR-10 to {folder()} ({error.strerror}); nothing half-written is left. "
            "Free some space, or point PRIVLIB_CACHE at another disk"
        ) from error


def remedy() -> str:
    """What to do about a damaged cache."""
    return f"run `privlib data fetch`, or delete {folder()}"


def _files_of(split: str) -> tuple[Path, Path]:
    return folder() / f"{split}_images.npy", folder() / f"{split}_labels.npy"


def _files() -> list[Path]:
    return [path for split in SPLITS for path in _files_of(split)]


def _stamps() -> dict[str, list[int]]:
    stats = {path.name: path.stat() for path in _files()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _records_by_file() -> dict[str, Bytes]:
    """The cached set as the six official files."""
    records = {}
    for split, names in SPLITS.items():
        images, labels = arrays(split)
        for number, name in enumerate(names):
            rows = slice(number * IMAGES_PER_FILE, (number + 1) * IMAGES_PER_FILE)
            records[name] = to_records(images[rows], labels[rows])
    return records


def _write_npy(path: Path, parts: list[Bytes]) -> None:
    """Concatenated along the first axis. Plain writes, since a full disk under a memory map kills the process."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for part in parts:
            file.write(part.data)


def _write_manifest(manifest: Manifest) -> None:
    with atomic_path(folder() / _MANIFEST) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
