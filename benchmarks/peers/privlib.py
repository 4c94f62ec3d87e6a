"""privlib: compiled in a process of its own, exported, and run with the TVM runtime alone."""

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cases import Case

PRECISION = "float32"


def versions() -> dict[str, str]:
    """Versions of privlib and TVM."""
    from privlib import __version__

    return {"privlib": __version__, "apache-tvm": metadata.version("apache-tvm")}


def inference(case: Case) -> Callable[[], Any]:
    """Logits of the case's batch as an array (batch_size, num_classes)."""
    subprocess.run([sys.executable, "-m", __name__, str(case.folder)], check=True)
    # TVM's foreign-function layer imports PyTorch wherever it finds it. Inside an enclave there is none: nor here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from privlib import trusted

    model, images = trusted.load(case.folder / "artifact"), case.input()
    return lambda: model.run(images)


def export(case: Case) -> None:
    """Compile the case's model and leave the artifact in its folder."""
    from privlib import compiler

    compiler.compile_inference(case.model(), case.batch_size, case.input_shape).export(case.folder / "artifact")


if __name__ == "__main__":
    export(Case.load(Path(sys.argv[1])))
