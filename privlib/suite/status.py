"""`privlib status`: what is cached, compiled and run, without starting anything."""

from pathlib import Path

from privlib.files import cache_dir
from privlib.suite import index, system, tables


def text(root: Path) -> str:
    """Three tables: the cache (data, compiled artifacts, trained models), the notebooks, the benchmarks."""
    description = system.describe()
    header = ("run on this system", "status", "profile", "when (UTC)")
    return "\n\n".join(
        [
            f"system  {description['id']}: {description['cpu']}, {description['threads']} threads, "
            f"{description['memory_gib']} GiB",
            _data(),
            tables.aligned([("cached", "entries", "size"), *cache_rows()]),
            tables.aligned([header, *map(_row, index.latest_runs(root))]),
        ]
    )


def cache_rows() -> list[tuple[str, str, str]]:
    """Name, number of entries and size of each folder of the cache."""
    rows = []
    for folder in sorted(path for path in cache_dir().iterdir() if path.is_dir() and not path.name.startswith(".")):
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rows.append((folder.name, str(len(entries)), tables.with_unit(size, "bytes")))
    return rows or [("nothing yet", "0", "0 bytes")]


def _row(run: dict[str, str]) -> tuple[str, ...]:
    return tuple(run.values())


def _data() -> str:
    from privlib import data

    return data_text(data.status())


def data_text(found: dict[str, object]) -> str:
    """`privlib.data.status()` in a line or three."""
    if found["complete"]:
        size = tables.with_unit(int(str(found["bytes"])), "bytes")
        return f"CIFAR-10  whole, verified, {size} from source {found['source']}, in {found['folder']}"
    lines = ["CIFAR-10  not cached: `privlib data fetch` gets it; until then the shipped sample is used"]
    if found["problem"]:
        lines.append(f"          {found['problem']}")
    if found["partial_download_bytes"]:
        size = tables.with_unit(int(str(found["partial_download_bytes"])), "bytes")
        lines.append(f"          unfinished download: {size}")
    return "\n".join(lines)
