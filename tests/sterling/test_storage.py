"""Content-addressed storage gives back what was stored, or says that it cannot."""

import hashlib
from pathlib import Path

import pytest

from privlib.sterling import storage
from privlib.sterling.errors import StorageError
from privlib.sterling.storage import ContentStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContentStore:
    monkeypatch.setattr(storage, "CHUNK_BYTES", 10)
    return ContentStore(tmp_path / "store")


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 35])
def test_files_come_back_by_their_digest(store: ContentStore, size: int, tmp_path: Path) -> None:
    data = bytes(range(size))
    (tmp_path / "file").write_bytes(data)
    digest = store.put(tmp_path / "file")
    assert digest == store.put(data) == hashlib.sha256(data).hexdigest()
    assert store.get(digest) == data and store.save(digest, tmp_path / "copy").read_bytes() == data
    assert len(store.chunks(digest)) == max(1, -(-size // 10))


def test_what_is_lost_or_altered_is_refused_by_name(store: ContentStore, tmp_path: Path) -> None:
    digest = store.put(bytes(range(35)))
    chunk = store.chunks(digest)[2]
    kept = chunk.read_bytes()
    chunk.write_bytes(kept + b"x")
    with pytest.raises(StorageError, match="was altered"):
        store.get(digest)
    chunk.unlink()
    with pytest.raises(StorageError, match="is lost"):
        store.save(digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert store.put(bytes(range(35))) == digest and store.get(digest) == bytes(range(35))


def test_chunks_in_another_order_are_another_file(store: ContentStore) -> None:
    digest = store.put(bytes(range(35)))
    names = store.folder / "files" / digest
    text = names.read_text()
    first, second, *_ = (path.name for path in store.chunks(digest))
    names.write_text(text.replace(first, "x").replace(second, first).replace("x", second))
    with pytest.raises(StorageError, match="is not what was stored"):
        store.get(digest)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '["../../etc/passwd"]'])
def test_a_damaged_list_is_refused(store: ContentStore, text: str) -> None:
    digest = store.put(b"data")
    (store.folder / "files" / digest).write_text(text)
    with pytest.raises(StorageError):
        store.get(digest)


@pytest.mark.parametrize("name", ["", "x", "../" * 20, "ab" * 32, "AB" * 32])
def test_no_other_file_can_be_asked_for(store: ContentStore, name: str) -> None:
    with pytest.raises(StorageError):
        store.get(name)
