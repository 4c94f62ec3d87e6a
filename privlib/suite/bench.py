"""`privlib bench NAME`: run `benchmarks/NAME.py`, found by path, and write its record.

A benchmark module has a docstring, `VERSION` (text; new numbers under an old version are not comparable), `ROWS` (what
`--only` may name) and `run(profile, rows)`, which says what it found through `privlib.suite.record`. It may have
`GROUPS`: names that `--only` also takes, each for several rows.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from privlib.errors import PrivlibError
from privlib.suite import record, records
from privlib.suite.errors import ParameterError, ProjectError
from privlib.suite.records import Run, Subject


class Benchmark(Protocol):
    """What a module in `benchmarks/` offers."""

    __doc__: str | None
    VERSION: str
    ROWS: Sequence[str]
    run: Callable[[str, Sequence[str]], None]


def names(root: Path) -> list[str]:
    """Benchmarks that `root/benchmarks` holds."""
    return sorted(p.stem for p in (root / "benchmarks").glob("*.py") if "ROWS" in p.read_text(encoding="utf-8"))


def load(root: Path, name: str) -> Benchmark:
    """Import `benchmarks/NAME.py`.

    Raises:
        ProjectError: there is no such benchmark.
    """
    if name not in names(root):
        raise ProjectError(f"no benchmark {name!r}; there are: {', '.join(names(root)) or 'none'}.")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return cast(Benchmark, importlib.import_module(f"benchmarks.{name}"))


def run(root: Path, name: str, profile: str = "quick", only: Sequence[str] = (), results: Path | None = None) -> Run:
    """Run a benchmark and write its record; one that raises leaves a record with status `failed`.

    Raises:
        ParameterError: `only` names a row or a group that the benchmark does not have.
        SystemExit: SIGTERM; nothing is left of the record.
    """
    module = load(root, name)
    groups: Mapping[str, Sequence[str]] = getattr(module, "GROUPS", {})
    unknown = sorted(set(only) - set(module.ROWS) - set(groups))
    if unknown:
        known = ", ".join([*module.ROWS, *groups])
        raise ParameterError(f"benchmark {name} has no row {', '.join(unknown)}; it has: {known}.")
    wanted = {row for each in only for row in groups.get(each, (each,))}
    rows = [row for row in module.ROWS if not only or row in wanted]
    command = ["privlib", "bench", name, "--profile", profile, *(["--only", ",".join(only)] if only else [])]
    subject = Subject(name, "benchmark", module.VERSION, profile, {"rows": rows}, command)
    with _sigterm_as_exit(), records.staging(results or root / "results", root, subject) as staged:
        os.environ[record.RUN_FOLDER] = str(staged.folder)
        try:
            module.run(profile, rows)
        except PrivlibError as error:
            return staged.commit("failed", f"{type(error).__name__}: {error}")
        finally:
            del os.environ[record.RUN_FOLDER]
        return staged.commit("ok")


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
