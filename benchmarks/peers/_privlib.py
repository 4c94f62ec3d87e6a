"""What privlib's peers share: compiling in a process of its own, so that the peer runs on the TVM runtime alone."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import privlib
from benchmarks.cases import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Case, Prepared
from privlib.files import cache_dir

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
    """The folder of a peer's artifact: compiled by whoever asks first, and kept in the cache for later runs with the
    same weights, sources and processor. `compile_seconds` in its facts stay those of the compilation."""
    artifact = _artifact(case, peer)
    with open(artifact.with_suffix(".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if artifact.exists():
            return artifact
        name = f"{case.model_name}{case.image_size}-{case.num_classes}-{case.batch_size}-{peer.rsplit('.', 1)[-1]}"
        kept, key = cache_dir("benchmarks") / name, _key(case, peer)
        if not (kept / "key").exists() or (kept / "key").read_text(encoding="ascii") != key:
            _compile(case, peer, kept, key)
        shutil.copytree(kept / "artifact", artifact)
        shutil.copyfile(kept / "facts.json", artifact.with_suffix(".json"))
    return artifact


def _compile(case: Case, peer: str, kept: Path, key: str) -> None:
    """Compile into the folder `kept`, whole or not at all; what was kept of other sources goes."""
    folder = Path(tempfile.mkdtemp(prefix=f".{kept.name}.", dir=kept.parent))
    try:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", peer, str(case.folder), str(folder / "artifact")], check=True)
        known = {**_known(folder / "artifact"), "compile_seconds": time.perf_counter() - begin}
        (folder / "facts.json").write_text(json.dumps(known), encoding="utf-8")
        (folder / "key").write_text(key, encoding="ascii")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _key(case: Case, peer: str) -> str:
    """Of everything that an artifact depends on: model and weights, privlib's and this folder's sources, TVM, and the
    processor with the cores that may be used."""
    model = [case.model_name, case.num_classes, case.image_size, case.batch_size, peer]
    # Read here: whoever imports TVM imports PyTorch with it, where that is found.
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    machine = [versions(), flags, len(os.sched_getaffinity(0)), sys.version]
    digest = hashlib.sha256(json.dumps([model, machine]).encode())
    digest.update((case.folder / "weights.pt").read_bytes())
    for root in (Path(privlib.__file__).parent, Path(__file__).parents[1]):
        for path in sorted(root.rglob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


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
