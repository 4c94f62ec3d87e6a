"""What the host keeps for its enclaves: sealed state, one file each, and a version register beside it.

The files are ciphertext, and the registers notice a state that is put back, where they are out of the host's reach.
Here they lie beside the state: whoever sets back both is not noticed (`privlib.trusted.sealing`), on any platform;
SGX has no counters of its own any more. Give `launch` another store where a register can be reached that is better.
"""

import hashlib
from pathlib import Path

from privlib.enclave.simulated_sealing import FileRegister
from privlib.files import atomic_path
from privlib.trusted.sealing import Register


class StateStore:
    """State by label, in a folder that belongs to one measurement."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, label: str) -> Path:
        """Where the state of this label lies, or would."""
        return self.folder / f"{hashlib.sha256(label.encode()).hexdigest()[:32]}.sealed"

    def load(self, label: str) -> bytes | None:
        """What is stored, or None."""
        try:
            return self.path(label).read_bytes()
        except FileNotFoundError:
            return None

    def store(self, label: str, sealed: bytes) -> None:
        """Returns once it is on disk."""
        with atomic_path(self.path(label)) as temporary:
            temporary.write_bytes(sealed)

    def register(self, label: str) -> Register:
        """The register of the state of this label."""
        return FileRegister(self.path(label).with_suffix(".register"))
