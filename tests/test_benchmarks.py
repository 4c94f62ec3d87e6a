"""The harness: interleaving, agreement, memory, failures, with small peers in processes of their own; the cases."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks.peers
from benchmarks import harness, inference, worker
from benchmarks.cases import Case
from privlib.suite import record, records
from privlib.suite.records import Subject

PEER = """
import time
import numpy as np
PRECISION = "float32"

def versions():
    return {{"{name}": "1.2"}}

def inference(case):
    images = case.input()
    held = np.ones({megabytes} << 17)
    def run(held=held):
        with open(case.folder / "order", "a") as order:
            order.write("{letter}")
        time.sleep({seconds})
        np.ones({transient} << 17).sum()
        return images.reshape(len(images), -1)[:, :10] * {factor}
    return run
"""


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folder = tmp_path / "case"
    folder.mkdir()
    made = Case(folder, "tiny_batch4", "small_cnn", 10, 32, 4)
    np.save(folder / "input.npy", np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32))
    made.save()
    return made


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a peer, in place of the real ones, for this process and the workers."""
    root = tmp_path / "root"
    (root / "benchmarks" / "peers").mkdir(parents=True)
    source = Path(harness.__file__).parent
    for name in ("__init__.py", "cases.py", "worker.py", "peers/__init__.py"):
        (root / "benchmarks" / name).write_text((source / name).read_text())
    monkeypatch.setattr(harness, "PEERS", root / "benchmarks" / "peers")
    monkeypatch.setattr(harness, "__file__", str(root / "benchmarks" / "harness.py"))
    monkeypatch.setattr(benchmarks.peers, "__path__", [str(root / "benchmarks" / "peers")])

    def make(name: str, text: str = PEER, **settings: Any) -> None:
        defaults = {"letter": name[-1], "seconds": 0.001, "factor": 1.0, "megabytes": 0, "transient": 0}
        content = text.format(name=name, **{**defaults, **settings})
        (root / "benchmarks" / "peers" / f"{name}.py").write_text(content)
        monkeypatch.delitem(sys.modules, f"benchmarks.peers.{name}", raising=False)

    yield make
    for name in [name for name in sys.modules if name.startswith("benchmarks.peers.")]:
        del sys.modules[name]


def _compare(
    case: Case, tmp_path: Path, effort: harness.Effort, task: str = "inference"
) -> tuple[harness.Measured, dict[str, Any]]:
    subject = Subject("tiny", "benchmark", "1", "smoke", {}, ["privlib"])
    with records.staging(tmp_path / "results", tmp_path, subject) as staged, pytest.MonkeyPatch.context() as patch:
        patch.setenv(record.RUN_FOLDER, str(staged.folder))
        measured = harness.compare(case, task, effort)
        return measured, staged.commit("ok").data


@pytest.mark.alone
def test_peers_take_turns_and_their_numbers_are_their_own(
    case: Case, peer: Callable[..., None], tmp_path: Path
) -> None:
    peer("pytorch_eager", letter="E", seconds=0.03)
    peer("peer_b", letter="B", seconds=0.01, megabytes=100, transient=60)
    measured, data = _compare(case, tmp_path, harness.Effort(rounds=5, turn_seconds=0.02))
    turns = "".join(name for name, _ in itertools.groupby((case.folder / "order").read_text()))
    # Peers prepare side by side, in no order; then they warm up in turn, and five rounds follow.
    assert turns.endswith("BE" * 6)
    assert len(turns) <= 14
    metrics = {metric["name"]: metric for metric in data["metrics"]}
    assert metrics["tiny_batch4/pytorch_eager/throughput"]["median"] == pytest.approx(4 / 0.03, rel=0.3)
    assert metrics["tiny_batch4/peer_b/throughput"]["n"] == 5
    assert len(measured.throughput["peer_b"]) == 5
    assert measured.peak_bytes["peer_b"] == metrics["tiny_batch4/peer_b/peak_memory"]["value"]
    held = (
        metrics["tiny_batch4/peer_b/peak_memory"]["value"] - metrics["tiny_batch4/pytorch_eager/peak_memory"]["value"]
    )
    assert held == pytest.approx(160 * 2**20, rel=0.15), "100 MiB held and 60 MiB for a moment"
    assert metrics["tiny_batch4/peer_b/relative_error"]["value"] == 0.0
    assert data["versions"] == {"pytorch_eager": "1.2", "peer_b": "1.2"}


def test_our_own_answers_must_agree(case: Case, peer: Callable[..., None]) -> None:
    peer("pytorch_eager")
    peer("privlib", factor=1.001)
    with pytest.raises(harness.BenchmarkError, match=r"privlib is 1\.0e-03 away from PyTorch eager, more than 1e-04"):
        harness.compare(case, "inference", harness.EFFORTS["smoke"])


def test_a_competitor_with_other_answers_is_left_out(case: Case, peer: Callable[..., None], tmp_path: Path) -> None:
    peer("pytorch_eager")
    peer("peer_b", factor=1.001)
    measured, data = _compare(case, tmp_path, harness.EFFORTS["smoke"])
    assert set(measured.throughput) == {"pytorch_eager"}
    assert any("peer_b is 1.0e-03 away from PyTorch eager, more than 1e-04: left out" in n for n in data["notes"])
    assert not any("peer_b" in metric["name"] for metric in data["metrics"])


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("    raise ValueError('no licence')", "ValueError: no licence"),
        ("    import os; os._exit(7)", "code 7: no message"),
    ],
)
def test_a_peer_that_dies_is_named_with_its_last_words(
    case: Case, peer: Callable[..., None], body: str, complaint: str
) -> None:
    peer("pytorch_eager")
    peer(
        "peer_b",
        text=f'PRECISION = "float32"\n\ndef versions():\n    return {{{{}}}}\n\ndef inference(case):\n{body}\n',
    )
    with pytest.raises(harness.BenchmarkError, match=f"peer peer_b ended with .*{complaint}"):
        harness.compare(case, "inference", harness.EFFORTS["smoke"])


def test_a_peer_that_cannot_run_here_is_left_out_with_a_note(
    case: Case, peer: Callable[..., None], tmp_path: Path
) -> None:
    peer("pytorch_eager")
    peer("peer_b", text=PEER + "\ndef unavailable():\n    return 'it needs another processor.'\n")
    _, data = _compare(case, tmp_path, harness.EFFORTS["smoke"])
    assert data["notes"] == ["peer_b is left out: it needs another processor."]
    assert not [metric for metric in data["metrics"] if "peer_b" in metric["name"]]


def test_every_peer_says_its_precision_and_versions() -> None:
    names = {path.stem for path in harness.PEERS.glob("[!_]*.py")}
    assert names >= {
        "privlib",
        "pytorch_eager",
        "pytorch_channels_last",
        "pytorch_compile",
        "pytorch_bf16",
        "onnxruntime",
    }
    tasks = [(task, module) for task in harness.TOLERANCES for module in harness.peers(task).values()]
    for task, module in tasks:
        assert module.PRECISION in harness.TOLERANCES[task]
        assert all(module.versions().values())
        assert module.__doc__


TRAINER = """
import numpy as np
from benchmarks.cases import Prepared
PRECISION, PRIVATE = "{precision}", {private}

def versions():
    return {{}}

def facts(case, peer, run):
    return {{"operators": len(peer) + run()}}

def training(case):
    return Prepared({{"big": np.full(100, {big}), "small": np.full(2, {small})}}, lambda: 7)
"""


def _reference(case: Case, kind: str, value: float) -> None:
    np.savez(case.folder / f"output-reference_{kind}.npz", big=np.full(100, value), small=np.full(2, value / 100))


def test_training_is_compared_by_what_a_peer_hands_over_private_and_plain_apart(
    case: Case, peer: Callable[..., None], tmp_path: Path
) -> None:
    _reference(case, "plain", 1.0)
    _reference(case, "private", 2.0)
    peer("peer_a", text=TRAINER, precision="float32", private=False, big=1.0, small=0.01)
    peer("peer_b", text=TRAINER, precision="float32", private=True, big=2.0, small=0.0201)
    measured, data = _compare(case, tmp_path, harness.EFFORTS["smoke"], "training")
    errors = {m["name"]: m["value"] for m in data["metrics"] if m["name"].endswith("relative_error")}
    assert errors["tiny_batch4/peer_a/relative_error"] == 0.0
    assert errors["tiny_batch4/peer_b/relative_error"] == pytest.approx(0.005), "of the worst array, not of all"
    assert measured.facts["peer_b"] == {"operators": len("benchmarks.peers.peer_b") + 7}
    assert measured.modules["peer_b"].PRIVATE


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"small": 0.011}, r"privlib_a is 1\.0e-01 away from Reference plain, more than 5e-02"),
        ({"small": "np.nan"}, "privlib_a is nan away"),
        ({"private": True}, r"privlib_a is 5\.0e-01 away from Reference private"),
    ],
)
def test_one_wrong_gradient_stops_the_benchmark(
    case: Case, peer: Callable[..., None], settings: dict[str, Any], complaint: str
) -> None:
    _reference(case, "plain", 1.0)
    _reference(case, "private", 2.0)
    changed = {"precision": "float32", "private": False, "big": 1.0, "small": 0.01, **settings}
    peer("privlib_a", text=TRAINER, **changed)
    with pytest.raises(harness.BenchmarkError, match=complaint):
        harness.compare(case, "training", harness.EFFORTS["smoke"])


def test_bfloat16_is_compared_over_all_gradients_together(
    case: Case, peer: Callable[..., None], tmp_path: Path
) -> None:
    _reference(case, "plain", 1.0)
    peer("peer_a", text=TRAINER, precision="bfloat16", private=False, big=1.0, small=0.02)
    _, data = _compare(case, tmp_path, harness.EFFORTS["smoke"], "training")
    (error,) = [m["value"] for m in data["metrics"] if m["name"].endswith("relative_error")]
    assert 0 < error < 0.01


def test_only_the_peers_named_take_part(case: Case, peer: Callable[..., None]) -> None:
    peer("pytorch_eager")
    peer("peer_b", factor=2.0)
    assert set(harness.compare(case, "inference", harness.EFFORTS["smoke"], ["pytorch_eager"]).throughput) == {
        "pytorch_eager"
    }


@pytest.mark.parametrize("row", ["vgg9_batch16", "mobilenet224_batch16"])
def test_a_case_holds_the_same_model_and_images_for_every_peer(tmp_path: Path, row: str) -> None:
    case = inference.make_case(tmp_path, row, row.removesuffix("_batch16"), 16)
    assert Case.load(tmp_path) == case
    images = case.input()
    assert images.shape == (16, *case.input_shape)
    assert images.dtype == np.float32
    with torch.inference_mode():
        logits, again = (case.model()(torch.from_numpy(images[:2])) for _ in range(2))
    assert torch.equal(logits, again)
    assert logits.shape == (2, case.num_classes)
    assert float(logits.std()) > 1e-3, "BatchNorm statistics of real activations keep the signal alive"


def test_rows_cover_three_models_and_two_batches() -> None:
    assert len(inference.ROWS) == 6
    assert set(inference.FP32_PYTORCH) <= {path.stem for path in harness.PEERS.glob("*.py")}


def test_peak_memory_forgets_what_came_before() -> None:
    block = np.ones(40 << 17)
    high = worker._peak_bytes()
    assert block.sum() > 0
    del block
    worker._reset_peak()
    assert worker._peak_bytes() < high - 30 * 2**20
