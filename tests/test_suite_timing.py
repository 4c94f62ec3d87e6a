"""Timing in turns, batches, footprints and tables for notebooks."""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from privlib.suite import footprint, plots, timing
from privlib.suite.errors import ProjectError


@pytest.mark.alone
def test_candidates_take_turns() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    measured = timing.interleave(
        {"a": lambda: call("a", 0.02), "b": lambda: call("b", 0.005)}, rounds=3, turn_seconds=0.02
    )
    turns = "".join(name for name, _ in itertools.groupby(order))
    assert turns.endswith("ababab")
    assert np.median(measured["a"]) == pytest.approx(0.02, rel=0.5)
    assert np.median(measured["b"]) == pytest.approx(0.005, rel=0.8)
    assert len(measured["a"]) == 3


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_batches_cover_every_image_once_in_order(count: int) -> None:
    images = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    assert np.array_equal(timing.in_batches(lambda batch: batch * 2, images, 4), images * 2)


def test_relative_error_is_the_norms_ratio() -> None:
    assert timing.relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.5 / np.hypot(3, 4.5))


def test_package_bytes_are_those_on_disk() -> None:
    import numpy

    library = next(Path(numpy.__file__).parent.rglob("_multiarray_umath*.so"))
    assert footprint.package_bytes("numpy", [library.name]) == library.stat().st_size
    assert footprint.package_bytes("numpy") > library.stat().st_size
    with pytest.raises(ProjectError, match="not installed"):
        footprint.package_bytes("no-such-package")
    with pytest.raises(ProjectError, match=r"no file missing\.so"):
        footprint.package_bytes("numpy", ["missing.so"])


def test_folder_bytes_count_files_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"45")
    assert footprint.folder_bytes(tmp_path) == 5
    assert footprint.folder_bytes(tmp_path / "y") == 2


def test_tables_escape_text_and_keep_links() -> None:
    html = plots.table([{"a": "<b>", "n": 3}, {"a": plots.link("x & y", "02.ipynb")}]).data
    assert "&lt;b&gt;" in html
    assert '<a href="02.ipynb">x &amp; y</a>' in html
