"""One peer in its own process, serving turns over pipes: `python -m benchmarks.worker PEER TASK CASE_FOLDER`.

Between turns the process blocks in a read, so that no other peer's thread pool disturbs a measurement. Requests and
answers are lines of JSON:

    {"do": "prepare"}                   -> {"versions": {...}, "seconds": ...}       compile, load, one run; output
    {"do": "turn", "iterations": 5}     -> {"seconds": [...]}                        a batch, after one run that does
                                                                                     not count
    {"do": "memory"}                    -> {"peak_bytes": ...}                       since the preparation ended
    {"do": "facts"}                     -> {"operators": ..., ...}                   what the peer can tell of its run
"""

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case, Prepared


def main(peer: str, task: str, folder: Path) -> None:
    """Serve requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    case = Case.load(folder)
    made: Prepared | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prepare":
            begin = time.perf_counter()
            made = _prepare(getattr(module, task), case, folder / f"output-{peer}.npz")
            answer: dict[str, Any] = {"versions": module.versions(), "seconds": time.perf_counter() - begin}
            _reset_peak()
        elif request["do"] == "turn":
            assert made is not None
            runs = max(1, request["iterations"] // made.batches)
            # After a pause the first run finds cold caches; where one run fills the turn, that no longer shows.
            if runs > 1:
                made.run()
            answer = {"seconds": [_timed(made.run) / made.batches for _ in range(runs)]}
        elif request["do"] == "memory":
            assert made is not None
            answer = {"peak_bytes": module.peak_bytes(made.run) if hasattr(module, "peak_bytes") else _peak_bytes()}
        else:
            assert made is not None
            answer = module.facts(case, module.__name__, made.run) if hasattr(module, "facts") else {}
        answers.write(json.dumps(answer) + "\n")


def _prepare(task: Callable[[Case], Any], case: Case, output: Path) -> Prepared:
    """Make the peer ready, run it once, and save what it is compared by: its agreement or, without one, its result."""
    found = task(case)
    made: Prepared = found if isinstance(found, Prepared) else Prepared({"output": found()}, found)
    if made is found:
        made.run()
    arrays: dict[str, Any] = dict(made.agreement)
    np.savez(output, **arrays)
    return made


def _timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _reset_peak() -> None:
    """Forget the peak reached while compiling and comparing (proc(5), clear_refs), after giving back what the allocator
    still holds of it: what counts is the peak while running."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM line")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
