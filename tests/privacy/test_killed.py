"""kill -9 at random moments: the ledger never forgets, the checkpoint is always whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def killed(artifact: Path, folder: Path, kills: int, seed: int, charge_every: int) -> None:
    command = [sys.executable, "-m", "tests.privacy.killed_training", artifact, folder, kills, seed, charge_every]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout


@pytest.mark.parametrize("charge_every", [1, 4])
def test_killed_a_few_times(artifact: Path, tmp_path: Path, charge_every: int) -> None:
    killed(artifact, tmp_path, 4, charge_every, charge_every)


@pytest.mark.soak
@pytest.mark.parametrize("charge_every", [1, 5])
def test_killed_many_times(artifact: Path, tmp_path: Path, charge_every: int) -> None:
    killed(artifact, tmp_path, 50, 100 + charge_every, charge_every)
