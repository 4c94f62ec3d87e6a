"""What privlib's peers share: compiling in a process of its own, so that the peer runs on the TVM runtime alone."""

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from benchmarks.cases import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Case, Prepared

if TYPE_CHECKING:
    from privlib.trusted import TrainingStep


def versions() -> dict[str, str]:
    """Versions of privlib and TVM."""
    from privlib import __version__

    return {"privlib": __version__, "apache-tvm": metadata.version("apache-tvm")}


def compiled(case: Case, module: str) -> Any:
    """What `python -m MODULE FOLDER` exported to the case's folder, loaded as an enclave would."""
    artifact = case.folder / f"artifact-{module.rsplit('.', 1)[-1]}"
    subprocess.run([sys.executable, "-m", module, str(case.folder), str(artifact)], check=True)
    # TVM's foreign-function layer imports PyTorch wherever it finds it. Inside an enclave there is none: nor here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from privlib import trusted

    return trusted.load(artifact)
