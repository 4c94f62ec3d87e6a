"""Checkpoints of private training: one file, there whole or not at all, holding nothing but what was released.

Parameters, momentum and averages are functions of the noised sums alone. Losses on the training data are not, and stay
out. The ledger's position is part of it: a ledger that does not reach that far is refused when training goes on.
"""

import json
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.files import atomic_path
from privlib.trusted.ledger import Position

FORMAT = 1


class CheckpointError(PrivlibError):
    """The file is not a checkpoint, is damaged, or belongs to another run."""


@dataclass(frozen=True)
class Measurement:
    """How training stood after `step` updates: ε spent so far by the ledger, accuracy on the evaluation's data (None
    where nothing was evaluated)."""

    step: int
    epsilon: float
    accuracy: float | None


@dataclass(frozen=True)
class Checkpoint:
    """State after `steps` updates. parameters, momentum, averaged: arrays by name (averaged is empty without EMA);
    ledger: where it stood, `charged` steps in all; history: the measurements so far."""

    steps: int
    parameters: dict[str, np.ndarray]
    momentum: dict[str, np.ndarray]
    averaged: dict[str, np.ndarray]
    ledger: Position
    charged: int
    history: list[Measurement] = field(default_factory=list)

    def save(self, path: Path | str) -> None:
        """Write the file, or leave the one that is there untouched."""
        facts = {
            "format": FORMAT,
            "steps": self.steps,
            "charged": self.charged,
            "ledger": asdict(self.ledger),
            "history": [asdict(each) for each in self.history],
        }
        arrays = {f"{group}/{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
            np.savez(file, facts=text, **arrays)

    @staticmethod
    def load(path: Path | str) -> "Checkpoint":
        """Read a file that `save` wrote. Raises CheckpointError for anything else."""
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                facts: dict[str, Any] = json.loads(file["facts"].tobytes())
                if facts["format"] != FORMAT:
                    raise ValueError(f"format {facts['format']!r}, this version reads {FORMAT}")
                groups: dict[str, dict[str, np.ndarray]] = {group: {} for group in _GROUPS}
                for key in file.files:
                    group, _, name = key.partition("/")
                    if name:
                        groups[group][name] = file[key]
            return Checkpoint(
                int(facts["steps"]),
                **groups,
                ledger=Position(**facts["ledger"]),
                charged=int(facts["charged"]),
                history=[Measurement(**each) for each in facts["history"]],
            )
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(
                f"{path} is not a whole checkpoint ({error}); remove it or put back a copy"
            ) from error


_GROUPS = ("parameters", "momentum", "averaged")
