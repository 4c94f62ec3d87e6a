"""The official archive over HTTP, against a local server that breaks off, changes its mind, or lies."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from privlib import data
from privlib.data import cache, cifar10, layout, sources
from privlib.data.download import discard, download
from privlib.data.errors import CorruptData, SourceUnavailable


@dataclass
class Server:
    """What the local server hands out: `content`, cut after `cut_after` bytes of the body in the next answers."""

    url: str = ""
    content: bytes = b""
    etag: str | None = '"one"'
    cuts: list[int] = field(default_factory=list)
    requests: list[tuple[str | None, int]] = field(default_factory=list)  # Range asked for, status answered


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            start, status = 0, 200
            if asked and self.headers["If-Range"] == state.etag:
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
                if start >= len(state.content):
                    status = 416
            state.requests.append((asked, status))
            self.send_response(status)
            if status == 416:
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:]
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{running.server_address[1]}/cifar-10-binary.tar.gz"
        yield state
        running.shutdown()


CONTENT = np.random.default_rng(1).bytes(1_000_000)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.content, server.cuts = CONTENT, [600_000]
    seen: list[tuple[int, int | None]] = []
    download(server.url, tmp_path / "part", progress=lambda what, done, total: seen.append((done, total)))
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.requests == [(None, 200), ("bytes=600000-", 206)]
    assert seen[-1] == (1_000_000, 1_000_000) and all(total == 1_000_000 for _, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_arrived_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    server.content, server.cuts = CONTENT, [400_000]
    with pytest.raises(SourceUnavailable, match="the connection ended early; 400,000 bytes are kept in .*part"):
        download(server.url, tmp_path / "part", attempts=1)
    download(server.url, tmp_path / "part", attempts=1)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.requests[-1] == ("bytes=400000-", 206)


def test_a_file_that_changed_on_the_server_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.content, server.cuts = CONTENT, [400_000]
    with pytest.raises(SourceUnavailable):
        download(server.url, tmp_path / "part", attempts=1)
    server.content, server.etag = CONTENT[::-1], '"two"'
    download(server.url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_again(etag: str | None, server: Server, tmp_path: Path) -> None:
    server.content, server.etag, server.cuts = CONTENT, etag, [400_000]
    download(server.url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == [None, None]


def test_a_complete_part_is_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT
    download(server.url, tmp_path / "part")
    download(server.url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.requests == [(None, 200), ("bytes=1000000-", 416)]


def test_a_part_longer_than_the_file_starts_again(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT
    download(server.url, tmp_path / "part")
    with open(tmp_path / "part", "ab") as part:
        part.write(b"more")
    download(server.url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    discard(tmp_path / "part")
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_unavailable_with_address_and_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"cannot download http://127.0.0.1:9/x: .*refused"):
        download("http://127.0.0.1:9/x", tmp_path / "part")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def archive(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, layout.Bytes]:
    """The server offers a small stand-in for the official archive, as the only source."""
    count = 20
    rng = np.random.default_rng(2)
    files = {name: rng.integers(0, 256, (count, layout.RECORD_BYTES), dtype=np.uint8) for name in layout.MD5}
    sums = {name: hashlib.md5(records.tobytes()).hexdigest() for name, records in files.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name in reversed(files):  # the order in the archive does not matter
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = files[name].nbytes
            made.addfile(member, io.BytesIO(files[name].tobytes()))
        readme = tarfile.TarInfo("cifar-10-batches-bin/readme.html")
        made.addfile(readme, io.BytesIO())
    server.content = buffer.getvalue()
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout, "MD5", sums)
    monkeypatch.setattr(sources, "OFFICIAL_URL", server.url)
    monkeypatch.setattr(cifar10, "_failed_here", {})
    for module in (layout, cache, sources):
        monkeypatch.setattr(module, "IMAGES_PER_FILE", count)
    return files


def test_the_official_archive_is_cached_and_then_removed(archive: dict[str, layout.Bytes], server: Server) -> None:
    server.cuts = [len(server.content) // 2]
    loaded = data.load_cifar10("test", source="official")
    assert loaded.source == "official" and [status for _, status in server.requests] == [200, 206]
    assert np.array_equal(layout.to_records(loaded.images, loaded.labels), archive["test_batch"])
    assert not list(cache.folder().glob("*.part*"))


def test_an_interrupted_archive_is_never_trusted_and_goes_on(archive: dict[str, layout.Bytes], server: Server) -> None:
    half = len(server.content) // 2
    server.cuts = [half, 0]
    with pytest.raises(SourceUnavailable, match="kept in"):
        data.load_cifar10("test", source="official")
    assert data.status()["partial_download_bytes"] == half and not data.status()["complete"]
    assert data.load_cifar10("test", source="official").source == "official"


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_archive_is_refused_and_removed(
    damage: str, archive: dict[str, layout.Bytes], server: Server
) -> None:
    whole = server.content
    middle = len(whole) // 2
    rest = b"" if damage == "cut" else bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    server.content = whole[:middle] + rest
    with pytest.raises(CorruptData, match=r"archive .* is cut or damaged|MD5|has no"):
        data.load_cifar10("test", source="official")
    assert {path.name for path in cache.folder().iterdir()} == {".lock"}
    server.content, server.etag = whole, '"mended"'
    assert data.load_cifar10("test", source="official").source == "official"


def test_an_oversized_member_is_refused_unread(archive: dict[str, layout.Bytes], tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size = 100
        made.addfile(member, io.BytesIO(b"\0" * 100))
    with pytest.raises(CorruptData, match="has 100 bytes, expected 61,460"):
        sources.read_official_archive(path)
