"""A process that trains, again and again, until it is killed: run by test_killed.py.

    python -m tests.privacy.killed_training ARTIFACT FOLDER KILLS SEED CHARGE_EVERY

It loads what it needs once and then forks a child for every life; each child trains until SIGKILL hits it at a random
moment. After each death ledger, checkpoint and the children's own log of what they did must agree.
"""

import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from privlib import trusted
from privlib.privacy import PoissonSampler, PrivacyLedger, train
from privlib.privacy.checkpoint import Checkpoint
from privlib.progress import silent
from tests.privacy.conftest import BATCH, examples

CHECKPOINT_EVERY = 3


def digest(parameters: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(parameters[name].tobytes() for name in sorted(parameters))).hexdigest()


def live(artifact: Path, folder: Path, charge_every: int, steps: int = 10**6) -> None:
    """One life. `made` gets a byte before noise is added, `log` a line with step and parameters after it."""
    step, data = trusted.load(artifact), examples()
    assert isinstance(step, trusted.TrainingStep)
    made, log = (os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in ("made", "log"))
    update = step.update

    def logged(learning_rate: float | None = None) -> trusted.StepResult:
        os.write(made, b".")
        result = update(learning_rate)
        os.write(log, f"{result.step} {digest(step.parameters())}\n".encode())
        return result

    step.update = logged  # type: ignore[method-assign]  # what the loop calls
    with PrivacyLedger(folder / "ledger", accountant="rdp") as ledger:
        train(
            step, data, PoissonSampler(len(data.labels), 0.2, BATCH), ledger, steps=steps, ema=0.9, progress=silent,
            checkpoint=folder / "checkpoint", checkpoint_every=CHECKPOINT_EVERY, charge_every=charge_every,
        )  # fmt: skip


def begin(artifact: Path, folder: Path, charge_every: int, steps: int = 10**6) -> int:
    child = os.fork()
    if child:
        return child
    try:
        live(artifact, folder, charge_every, steps)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - a child must never return into the parent's code
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def check(folder: Path, deaths: int, charge_every: int, before: int) -> int:
    """What must hold after a death; returns the steps charged."""
    made = (folder / "made").stat().st_size if (folder / "made").exists() else 0
    if not (folder / "ledger").exists():
        assert made == 0
        return 0
    with PrivacyLedger(folder / "ledger", accountant="rdp") as ledger:
        charged = ledger.steps
        assert before <= charged, "the total fell"
        assert made <= charged, f"{made} noise additions for {charged} steps charged"
        assert charged - made <= deaths * charge_every, f"{charged} charged, {made} made, {deaths} deaths"
        if (folder / "checkpoint").exists():
            kept = Checkpoint.load(folder / "checkpoint")
            ledger.require(kept.ledger)
            assert kept.steps <= made and kept.charged <= charged
            lines = (folder / "log").read_text().splitlines()
            logged = [line.split()[1] for line in lines if line.startswith(f"{kept.steps} ")]
            assert kept.steps % CHECKPOINT_EVERY == 0 and digest(kept.parameters) in logged
            assert set(kept.averaged) == set(kept.parameters) and kept.momentum
    return charged


def main() -> None:
    artifact, folder = Path(sys.argv[1]), Path(sys.argv[2])
    kills, seed, charge_every = map(int, sys.argv[3:6])
    chance, charged, begun = random.Random(seed), 0, 0
    for death in range(1, kills + 1):
        child = begin(artifact, folder, charge_every)
        # half the deaths at any moment after the first update of this life, half at any moment at all
        size, made = 0, folder / "made"
        if death % 2:
            size = made.stat().st_size if made.exists() else 0
            while (made.stat().st_size if made.exists() else 0) == size:
                time.sleep(0.002)
            begun += 1
        time.sleep(chance.random() * 0.2)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself"
        charged = check(folder, death, charge_every, charged)
    kept = Checkpoint.load(folder / "checkpoint").steps if (folder / "checkpoint").exists() else 0
    _, status = os.waitpid(begin(artifact, folder, charge_every, kept + 5), 0)
    assert status == 0
    charged = check_end(folder, kills, charge_every, charged, kept)
    print(f"{kills} kills, {begun} after an update, {charged} steps charged, {kept + 5} kept")


def check_end(folder: Path, deaths: int, charge_every: int, before: int, kept: int) -> int:
    """The last life finished: its five steps are in the ledger once, and in the checkpoint."""
    made = (folder / "made").stat().st_size
    with PrivacyLedger(folder / "ledger", accountant="rdp") as ledger:
        last = Checkpoint.load(folder / "checkpoint")
        assert last.steps == kept + 5 and ledger.steps == before + 5 and made <= ledger.steps
        assert digest(last.parameters) == (folder / "log").read_text().splitlines()[-1].split()[1]
        return ledger.steps


if __name__ == "__main__":
    main()
