"""Metrics as people read them: labels from paths, numbers with three or four digits, tables by quantity."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from privlib.suite.metrics import Record

_WORDS = {
    "vgg9": "VGG-9", "resnet32": "ResNet-32", "resnet18": "ResNet-18", "mobilenet": "MobileNet",
    "mobilenet32": "MobileNet 32", "mobilenet224": "MobileNet 224",
    "pytorch": "PyTorch", "onnxruntime": "ONNX Runtime", "privlib": "privlib",
    "bf16": "bf16", "tvm": "TVM", "opacus": "Opacus", "jax": "JAX", "tec": "TEC", "mee": "MEE", "mgx": "MGX",
    "ctr": "CTR", "img": "image", "l2": "L2", "mpc": "MPC", "fhe": "FHE", "zk": "ZK", "tee": "TEE",
    "cifar10": "CIFAR-10", "cnn": "CNN", "dram": "DRAM", "mhz": "MHz", "vta": "VTA", "int8": "int8", "aes": "AES",
    "fastdp": "fastDP", "fma": "FMA",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One number of a table: its text, its interval as text, whether it is the row's best; and where more is better and
    there is something to compare with, its share of the row's largest."""

    text: str
    interval: str
    share: float | None
    best: bool


@dataclass(frozen=True)
class Table:
    """One quantity of one benchmark: a row a case, a column an implementation."""

    quantity: str
    unit: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    kind: str


def label(part: str) -> str:
    """`vgg9_batch64` as `VGG-9, batch 64`, `pytorch_channels_last` as `PyTorch channels last`."""
    words: list[str] = []
    for word in part.split("_"):
        if word.startswith("batch") and word[5:].isdigit():
            words[-1:] = [f"{words[-1]}," if words else "", f"batch {word[5:]}"]
        else:
            words.append(_WORDS.get(word, word))
    text = " ".join(word for word in words if word)
    return text[:1].upper() + text[1:] if text.split(" ")[0] not in _WORDS.values() else text


def number(value: float | str) -> str:
    """Four significant digits, thousands separated, powers of ten only where needed."""
    if isinstance(value, str):
        return value if len(value) <= 20 else f"{value[:12]}…"
    if value == 0 or (isinstance(value, int) and abs(value) < 100_000_000):
        return f"{int(value):,}"
    short = repr(value)
    if len(short) <= 6 and "e" not in short:
        return short.removesuffix(".0")
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent >= 9:
        return f"{value:.2e}"
    return f"{value:,.{max(0, 3 - exponent)}f}" if exponent < 3 else f"{value:,.0f}"


def with_unit(value: float | str, unit: str) -> str:
    """Number and unit; bytes in binary multiples, ratios with a times sign."""
    if unit == "bytes" and not isinstance(value, str):
        for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= factor:
                return f"{number(value / factor)} {name}"
    if unit == "×":
        return f"{number(value)}×"
    return f"{number(value)} {unit}".strip()


def interval_text(metric: Record) -> str:
    """The metric's interval as `low – high` without its unit (bytes in the multiple that fits), empty without one."""
    interval = metric["interval"]
    if not interval:
        return ""
    unit = metric["unit"] if metric["unit"] == "bytes" else ""
    return f"{with_unit(interval['low'], unit)} – {with_unit(interval['high'], unit)}"


def by_quantity(metrics: Iterable[Record]) -> list[Table]:
    """Metrics named `row/column/quantity` as one table a quantity; numbers only, what is better when larger first."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for metric in metrics:
        if metric["name"].count("/") == 2 and not isinstance(metric["value"], str):
            key = (metric["name"].split("/")[2], metric["unit"], metric["kind"])
            groups.setdefault(key, []).append(metric)
    ordered = sorted(groups.items(), key=lambda group: group[1][0]["higher_is_better"] is not True)
    return [_table(quantity, unit, kind, found) for (quantity, unit, kind), found in ordered]


def metrics_text(data: Record) -> str:
    """A record's metrics as aligned plain text."""
    rows: list[tuple[str, ...]] = [("metric", "value", "95% interval", "n", "class")]
    for m in data["metrics"]:
        rows.append((m["name"], with_unit(m["value"], m["unit"]), interval_text(m), str(m["n"]), m["class"]))
    return aligned(rows)


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows of text in columns, the first row underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def _table(quantity: str, unit: str, kind: str, metrics: list[Record]) -> Table:
    # Ours first, the others as they were measured.
    columns = sorted(dict.fromkeys(m["name"].split("/")[1] for m in metrics), key=lambda c: not c.startswith("privlib"))
    rows = []
    for row in dict.fromkeys(m["name"].split("/")[0] for m in metrics):
        found = {m["name"].split("/")[1]: m for m in metrics if m["name"].split("/")[0] == row}
        rows.append((label(row), _cells(columns, found)))
    return Table(label(quantity), unit, [label(column) for column in columns], rows, kind)


def _cells(columns: list[str], found: dict[str, Record]) -> list[Cell | None]:
    values: dict[str, Any] = {column: metric["value"] for column, metric in found.items()}
    better = {metric["higher_is_better"] for metric in found.values()}
    best = largest = None
    if len(values) > 1 and better in ({True}, {False}):
        best = (max if better == {True} else min)(values, key=lambda column: values[column])
    if len(values) > 1 and better == {True} and max(values.values()) > 0:
        largest = max(values.values())
    return [_cell(found[column], largest, column == best) if column in found else None for column in columns]


def _cell(metric: Record, largest: float | None, best: bool) -> Cell:
    # The table says the unit once, but a multiple of bytes or a ratio is part of the number.
    unit = metric["unit"] if metric["unit"] in ("bytes", "×") else ""
    share = None if largest is None else max(0.0, metric["value"] / largest)
    return Cell(with_unit(metric["value"], unit), interval_text(metric), share, best)
