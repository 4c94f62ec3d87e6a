"""One HTTP(S) download that resumes where it stopped, or starts again cleanly when it cannot."""

import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

from privlib.data.errors import SourceUnavailable
from privlib.progress import Progress, silent

_CHUNK_BYTES = 1 << 18


def download(
    url: str, part: Path, *, progress: Progress = silent, timeout_seconds: float = 10, attempts: int = 3
) -> None:
    """Fetch `url` into `part`, going on from what `part` already holds where the server's copy is unchanged.

    `part` is a partial file by name and nature: what it holds is not verified, the caller verifies and renames.
    Beside it `<part>.json` keeps the server's validator. Raises `SourceUnavailable` when no attempt brings the whole
    file; what arrived stays for the next call.
    """
    what = f"download {url.rsplit('/', 1)[-1]}"
    problem = ""
    for _ in range(attempts):
        before = _size(part)
        try:
            if _continue(url, part, progress, what, timeout_seconds):
                return
            problem = "the connection ended early"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        if _size(part) <= before:  # no progress: another attempt would only repeat it
            break
    kept = f"; {_size(part):,} bytes are kept in {part} and the next try goes on from there" if _size(part) else ""
    raise SourceUnavailable(f"cannot download {url}: {problem}{kept}")


def discard(part: Path) -> None:
    """Remove a partial file and its validator."""
    part.unlink(missing_ok=True)
    _validator_path(part).unlink(missing_ok=True)


def _continue(url: str, part: Path, progress: Progress, what: str, timeout_seconds: float) -> bool:
    """One request; True when `part` is as long as the server says the file is."""
    validator = _read_validator(part)
    have = _size(part) if validator else 0
    headers = {"User-Agent": "privlib", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":  # we hold all of it already
                progress(what, have, have)
                return True
            discard(part)
            return _continue(url, part, progress, what, timeout_seconds)
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT and _range_start(response) == have
        if not resumed:
            have = 0
            discard(part)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        new_validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if new_validator and not new_validator.startswith("W/"):  # RFC 9110, 13.1.5: a weak one cannot guard a range
            _validator_path(part).write_text(json.dumps({"validator": new_validator}), encoding="utf-8")
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                progress(what, have, total)
            file.flush()
            os.fsync(file.fileno())
    return total is None or have == total


def _range_start(response: http.client.HTTPResponse) -> int | None:
    """Of `Content-Range: bytes 100-199/200`: 100."""
    unit, _, rest = (response.headers.get("Content-Range") or "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path) -> str:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return str(json.loads(_validator_path(part).read_text(encoding="utf-8"))["validator"])
    return ""
