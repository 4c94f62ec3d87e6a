"""The talk's CIFAR-10 table out of a record of `privlib bench cifar10`: for every row and column the peer that stands
for it, its images per second, and its share of the fastest PyTorch without privacy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privlib.suite import plots, report
from privlib.suite.metrics import Record
from privlib.suite.tables import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PYTORCH = "PyTorch, fp32"
_OURS = {
    "private, in the enclave": ("privlib_private_enclave",),
    "private, outside": ("privlib_private",),
    "plain, in the enclave": ("privlib_plain_enclave", "privlib_enclave"),
    "plain, outside": ("privlib_plain", "privlib"),
}
_OTHERS: dict[str, Callable[[str], bool]] = {
    PYTORCH: lambda peer: peer.startswith("pytorch") and "bf16" not in peer,
    "PyTorch, bf16": lambda peer: peer.startswith("pytorch") and "bf16" in peer,
    "best DP-SGD peer": lambda peer: peer.startswith("opacus") or peer in ("jax_privacy", "jax_vmap"),
}
COLUMNS = (*_OURS, *_OTHERS)
ROWS = ("vgg9", "resnet32", "mobilenet32", "mobilenet224")
_MYELIN = "private, in the enclave"


@dataclass(frozen=True)
class Cell:
    """peer: who stands for the column; value in images/s, low and high its 95% interval; ratio: to the row's fastest
    PyTorch in float32, from medians; memory: peak bytes, None where it was not recorded."""

    peer: str
    value: float
    low: float
    high: float
    ratio: float
    memory: float | None


def cells(metrics: Mapping[str, Record], row: str) -> dict[str, Cell]:
    """The cells of a row that the record has, by column; none where PyTorch was not measured."""
    rates = {
        name.split("/")[1]: metric
        for name, metric in metrics.items()
        if name.startswith(f"{row}/") and name.endswith("/throughput") and metric["kind"] == "measured"
    }
    chosen = {column: next((peer for peer in peers if peer in rates), None) for column, peers in _OURS.items()}
    for column, fits in _OTHERS.items():
        chosen[column] = max(filter(fits, rates), key=lambda peer: float(rates[peer]["value"]), default=None)
    base = chosen[PYTORCH]
    if base is None:
        return {}
    found = {}
    for column, peer in chosen.items():
        if peer is not None:
            value, interval = float(rates[peer]["value"]), rates[peer]["interval"] or {}
            low, high = (float(interval.get(side, value)) for side in ("low", "high"))
            memory = metrics.get(f"{row}/{peer}/peak_memory", {}).get("value")
            found[column] = Cell(peer, value, low, high, value / float(rates[base]["value"]), memory)
    return found


def rows(metrics: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The table as `plots.table` takes it: images per second, interval, share of PyTorch."""
    made = []
    for row in ROWS:
        found = cells(metrics, row)
        texts = {
            column: f"{cell.value:,.0f} ({cell.low:,.0f} … {cell.high:,.0f}), {cell.ratio:.2f}×"
            for column, cell in found.items()
        }
        made.append({"row": label(row), **{column: texts.get(column, "–") for column in COLUMNS}})
    return made


def myelin(row: str) -> float | None:
    """What the talk reports for a row: private in the enclave over non-private on its own machine."""
    values = {number["name"]: number["value"] for number in report.reported_numbers()}
    names = [f"{row}/{who}/training_throughput" for who in ("myelin_private", "cpu_non_private")]
    return float(values[names[0]] / values[names[1]]) if set(names) <= set(values) else None


def figure(metrics: Mapping[str, Record]) -> tuple["Figure", str]:
    """Speed as a share of the fastest PyTorch without privacy, the talk's shares as diamonds; the alternative text."""
    table = {row: found for row in ROWS if (found := cells(metrics, row))}
    drawing, axes = plots.figure(8.5, 1.2 + 1.5 * max(len(table), 1), nrows=max(len(table), 1), squeeze=False)
    told: Sequence[str] = [
        _panel(axis, row, found) for axis, (row, found) in zip(axes[:, 0], table.items(), strict=False)
    ]
    axes[-1, 0].set_xlabel("images/s as a share of the fastest PyTorch without privacy, float32, same machine")
    return drawing, f"Bar charts of speed as a share of PyTorch's. {'. '.join(told) or 'The record has no rows'}."


def _panel(axis: Any, row: str, found: Mapping[str, Cell]) -> str:
    names = list(found)
    colours = [plots.BLUE if name in _OURS else plots.GREY for name in names]
    axis.barh(names, [cell.ratio for cell in found.values()], color=colours)
    for at, cell in enumerate(found.values()):
        axis.text(cell.ratio, at, f" {cell.ratio:.2f} ({cell.value:,.0f}/s)", va="center", fontsize=8)
    text = ", ".join(f"{name} {cell.ratio:.2f}" for name, cell in found.items())
    if (talk := myelin(row)) is not None and _MYELIN in names:
        axis.plot(talk, names.index(_MYELIN), "D", color=plots.VERMILION, label="the talk, on its machine")
        axis.legend(loc="lower right", fontsize=8)
        text += f"; the talk reports {talk:.2f}"
    axis.set_title(label(row), loc="left", fontsize=10)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.25)
    return f"{label(row)}: {text}"
