"""privlib: compiled in a process of its own, exported, and run with the TVM runtime alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.peers import _privlib
from benchmarks.peers._privlib import facts, versions

__all__ = ["PRECISION", "export", "facts", "inference", "versions"]

PRECISION = "float32"


def inference(case: Case) -> Callable[[], Any]:
    """Logits of the case's batch as an array (batch_size, num_classes)."""
    model, images = _privlib.compiled(case, __name__), case.pixels()
    return lambda: model.run(images)


def export(case: Case, artifact: Path) -> None:
    """Compile the case's model and write its artifact."""
    from privlib import compiler, data

    compiler.compile_inference(case.model(), case.batch_size, case.input_shape, pixels=data.PIXELS).export(artifact)


if __name__ == "__main__":
    export(Case.load(Path(sys.argv[1])), Path(sys.argv[2]))
