"""What privlib's peers share: compiling in a process of its own, so that the peer runs on the TVM runtime alone."""

import fcntl
import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Case, Prepared

if TYPE_CHECKING:
    from privlib.trusted import TrainingStep


def versions() -> dict[str, str]:
    """Versions of privlib and TVM."""
    from privlib import __version__

    return {"privlib": __version__, "apache-tvm": metadata.version("apache-tvm")}


def compiled(case: Case, peer: str) -> Any:
    """What `python -m PEER CASE_FOLDER ARTIFACT` leaves there, loaded as an enclave would load it."""
    artifact = exported(case, peer)
    # TVM's foreign-function layer imports PyTorch wherever it finds it. Inside an enclave there is none: nor here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from privlib import trusted

    return trusted.load(artifact)


def exported(case: Case, peer: str) -> Path:
    """The folder of a peer's artifact, compiled once for a case, whoever asks first."""
    artifact = _artifact(case, peer)
    with open(artifact.with_suffix(".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not artifact.exists():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-m", peer, str(case.folder), str(artifact)], check=True)
            known = _known(artifact)
            known["compile_seconds"] = time.perf_counter() - begin
            artifact.with_suffix(".json").write_text(json.dumps(known), encoding="utf-8")
    return artifact


def training(case: Case, peer: str) -> Prepared:
    """A whole step: gradients, with privacy norms, clipping and noise, and the update."""
    step, images, labels = compiled(case, peer), case.input(), case.labels()
    return Prepared(agreement(step, case), lambda: step.step(images, labels))


def accumulation(case: Case, peer: str) -> Prepared:
    """Gradients, with privacy clipped, added to the sums in native memory; the update never comes."""
    step, images, labels = compiled(case, peer), case.input(), case.labels()
    return Prepared(agreement(step, case), lambda: step.accumulate(images, labels))


def export(folder: Path, artifact: Path, *, private: bool) -> None:
    """Compile the case's training step and write its artifact; beside it what only the compiler knows of it."""
    from tvm import relax

    from privlib.compiler import DPSGD, SGD, compile_training

    case = Case.load(folder)
    privacy = DPSGD(NOISE_MULTIPLIER, MAX_GRAD_NORM, expected_batch_size=case.batch_size) if private else None
    step = compile_training(
        case.model().train(),
        case.batch_size,
        input_shape=case.input_shape,
        optimizer=SGD(LEARNING_RATE),
        privacy=privacy,
    )
    step.export(artifact)
    calls = []

    def visit(node: object) -> None:
        if isinstance(node, relax.Call) and getattr(node.op, "name", "") == "relax.call_tir":
            calls.append(node)

    relax.analysis.post_order_visit(step.ir("lowered")["main"], visit)
    known = {"operators": len(calls), "planned_bytes": step.memory.peak_bytes}
    artifact.with_suffix(".json").write_text(json.dumps(known), encoding="utf-8")


def facts(case: Case, peer: str, run: object) -> dict[str, float]:
    """Seconds that compiling took, from the start of its process; of a training step the kernels that it calls up to
    its update, and the bytes that its memory plan needs."""
    return _known(_artifact(case, peer))


def _known(artifact: Path) -> dict[str, float]:
    path = artifact.with_suffix(".json")
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def _artifact(case: Case, peer: str) -> Path:
    return case.folder / f"artifact-{peer.rsplit('.', 1)[-1]}"


def agreement(step: "TrainingStep", case: Case) -> dict[str, Any]:
    """The clipped sum before noise; of a plain step what an update at learning rate 1 subtracts."""
    images, labels = case.input(), case.labels()
    if step.privacy is not None:
        return step.clipped_gradient_sum(images, labels)
    before = step.parameters()
    step.step(images, labels, learning_rate=1.0)
    after = step.parameters()
    step.load_parameters(before)
    return {name: before[name] - after[name] for name in before}
