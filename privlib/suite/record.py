"""How a notebook or benchmark says what it found: `from privlib.suite import record`.

Under `privlib run` and `privlib bench` every call also lands in the run's folder and becomes part of its `run.json`.
In an interactive session nothing is written: numbers are checked and returned, figures shown.

    record.provenance(profile)                                     # first cell: what produced this page
    record.dataset(cifar)                                          # which data, from where
    record.metric("vgg9/privlib/agreement", error, "", nature="random", higher_is_better=False)
    record.samples("vgg9/privlib/throughput", rates, "images/s", higher_is_better=True)
    record.figure(figure, "throughput", alt="Bar chart: ...")
"""

import io
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from privlib.suite import metrics, project, stats, system
from privlib.suite.errors import RecordError
from privlib.suite.metrics import Kind, Nature

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_FOLDER = "PRIVLIB_RUN_FOLDER"
EVENTS = "events.jsonl"


class Dataset(Protocol):
    """What `privlib.data.load_cifar10` returns, as far as a record cares."""

    @property
    def source(self) -> str:
        """Where the data came from, e.g. `official`."""

    @property
    def digest(self) -> str:
        """Digest of its content."""


def metric(
    name: str,
    value: float | str,
    unit: str,
    *,
    nature: Nature,
    kind: Kind = "measured",
    higher_is_better: bool | None = None,
    n: int = 1,
    median: float | None = None,
    interval: stats.Interval | None = None,
    source: str | None = None,
) -> float | str:
    """Record one number and return it; the arguments are those of `privlib.suite.metrics.metric`."""
    made = metrics.metric(
        name, value, unit, nature=nature, kind=kind, higher_is_better=higher_is_better, n=n, median=median,
        interval=interval, source=source,
    )  # fmt: skip
    _emit("metric", made)
    return value


def samples(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    nature: Nature = "timing",
    kind: Kind = "measured",
    higher_is_better: bool | None = None,
) -> float:
    """Record repeated observations: the metric is their median with a 95% interval from order statistics.

    The single values go into `samples.parquet`. Returns the median.
    """
    numbers = [float(metrics.plain_number(name, value)) for value in values]
    middle = stats.median(numbers)
    metric(
        name, middle, unit, nature=nature, kind=kind, higher_is_better=higher_is_better, n=len(numbers), median=middle,
        interval=stats.median_interval(numbers) if len(numbers) > 1 else None,
    )  # fmt: skip
    _emit("samples", {"name": name, "unit": unit, "values": numbers})
    return middle


def figure(drawing: "Figure", name: str, *, alt: str) -> None:
    """Show a Matplotlib figure with its alternative text, keep it in the run as `figures/<name>.png`, and close it.

    Args:
        name: letters, digits, `_`, `-`.
        alt: what a reader who cannot see the figure should know: at least 20 characters.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Image, display

    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise RecordError(f"figure name {name!r}: use letters, digits, '_' and '-' only.")
    if len(alt.strip()) < 20:
        raise RecordError(f"figure {name}: alternative text {alt!r} is too short to say what the figure shows.")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(drawing)
    folder = run_folder()
    if folder is not None:
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"{name}.png").write_bytes(buffer.getvalue())
        _emit("figure", {"file": f"figures/{name}.png", "alt": alt.strip()})
    if _in_notebook():
        display(Image(buffer.getvalue(), format="png", alt=alt.strip(), width=round(drawing.get_figwidth() * 96)))


def dataset(data: Dataset, name: str = "cifar10") -> None:
    """Record which data was used, its source and its content digest."""
    _emit("dataset", {"name": name, "source": str(data.source), "digest": str(data.digest)})


def seed(name: str, value: int) -> int:
    """Record a seed under a name and return it."""
    _emit("seed", {"name": name, "value": int(value)})
    return int(value)


def versions(**named: str) -> None:
    """Record versions of what was compared beyond the system's own list, e.g. `versions(onnxruntime="1.22.0")`."""
    _emit("versions", {name: str(version) for name, version in named.items()})


def note(text: str) -> None:
    """Record a sentence that a reader of the numbers has to know: a fallback that was taken, a peer left out."""
    _emit("note", {"text": text})


def privacy(
    *,
    epsilon: float,
    delta: float,
    accountant: str,
    neighbouring_relation: str,
    sampling: str,
    noise_multiplier: float,
    max_grad_norm: float,
    steps: int,
    subject: str | None = None,
) -> None:
    """Record the privacy statement of a private run: an ε without these fields cannot be compared with another.

    Where a run makes several releases, `subject` says which one this is about, as a metric's path begins.
    """
    content = dict(locals())
    if subject is None:
        del content["subject"]
    _emit("privacy" if subject is None else "guarantee", content)


def enclave(*, measurement: str, platform: str) -> None:
    """Record which enclave ran: its measurement (64 hexadecimal digits) and the platform's name."""
    _emit("enclave", {"measurement": measurement, "platform": platform})


def provenance(profile: str) -> dict[str, str]:
    """What produced this page, as a small table to show in a notebook's first cell."""
    from privlib import __version__

    try:
        state = project.git_state(project.find_root())
    except project.ProjectError:
        state = {"sha": None, "dirty": None}
    description = system.describe()
    libraries = system.library_versions(("torch", "apache-tvm", "numpy"))
    commit = state["sha"][:10] if state["sha"] else "no git checkout"
    changes = " with local changes" if state["dirty"] else ""
    return {
        "privlib": f"{__version__} ({commit}{changes})",
        "profile": profile,
        "system": "{id}: {cpu}, {threads} threads, {memory_gib} GiB".format(**description),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.items()),
    }


def run_folder() -> Path | None:
    """Folder of the run being recorded, None in an interactive session."""
    named = os.environ.get(RUN_FOLDER)
    return Path(named) if named else None


def read_events(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Everything recorded into `folder`, in order; an unfinished last line (the process died in it) is dropped."""
    path = folder / EVENTS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [(event["type"], event["content"]) for event in map(json.loads, lines)]


def _emit(kind: str, content: dict[str, Any]) -> None:
    folder = run_folder()
    if folder is not None:
        with (folder / EVENTS).open("a", encoding="utf-8") as events:
            events.write(json.dumps({"type": kind, "content": content}, allow_nan=False) + "\n")


def _in_notebook() -> bool:
    from IPython.core.getipython import get_ipython

    return get_ipython() is not None
