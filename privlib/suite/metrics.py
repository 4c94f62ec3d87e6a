"""One metric: a named number that says what kind of number it is and how far it can be trusted."""

import hashlib
import json
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from privlib.suite.errors import RecordError
from privlib.suite.stats import Interval

Kind = Literal["measured", "simulated", "modelled", "reported"]
Nature = Literal["deterministic", "random", "timing", "memory"]
Record = dict[str, Any]

KINDS = ("measured", "simulated", "modelled", "reported")
NATURES = ("deterministic", "random", "timing", "memory")
_NAME = re.compile(r"[a-z0-9_.-]+(/[a-z0-9_.-]+)+")


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
    interval: Interval | None = None,
    source: str | None = None,
) -> Record:
    """A checked metric as `run.json` holds it.

    Args:
        name: path `row/column/quantity`, lower case, e.g. `vgg9/privlib/throughput`.
        value: the number; a string only for what is compared for equality, such as a digest.
        unit: e.g. `images/s`, `bytes`; empty for a ratio.
        nature: `deterministic` (equal in every run on one machine), `random` (agrees within its interval), `timing`
            or `memory`. The record's field is called `class`.
        kind: `reported` is a number of somebody else and needs `source`.
        n: how many observations the value stands for.

    Raises:
        RecordError: the name, kind, nature or value is not one that a record can hold (NaN and infinity are not).
    """
    if not _NAME.fullmatch(name):
        raise RecordError(f"metric name {name!r} is not a path such as 'vgg9/privlib/throughput' (a-z, 0-9, _ . -).")
    if kind not in KINDS:
        raise RecordError(f"metric {name}: kind {kind!r} is not one of {', '.join(KINDS)}.")
    if nature not in NATURES:
        raise RecordError(f"metric {name}: nature {nature!r} is not one of {', '.join(NATURES)}.")
    if kind == "reported" and not source:
        raise RecordError(f"metric {name} is reported by somebody else: name the source.")
    if isinstance(value, str) and nature != "deterministic":
        raise RecordError(f"metric {name}: {value!r} is text, which only a deterministic metric can be.")
    record: Record = {
        "name": name,
        "value": value if isinstance(value, str) else plain_number(name, value),
        "unit": unit,
        "kind": kind,
        "class": nature,
        "higher_is_better": higher_is_better,
        "n": n,
        "median": None if median is None else plain_number(name, median),
        "interval": None if interval is None else _interval(name, interval),
    }
    if source:
        record["source"] = source
    return record


def deterministic_digest(metrics: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) over name, value and unit of the deterministic metrics, in name order.

    Two fresh runs on one machine must give the same digest.
    """
    rows = sorted((m["name"], m["value"], m["unit"]) for m in metrics if m["class"] == "deterministic")
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def plain_number(name: str, value: object) -> int | float:
    """`value` as a Python int or float; NumPy scalars are converted, NaN and infinity refused."""
    if not isinstance(value, numbers.Real):
        raise RecordError(f"metric {name}: {value!r} is not a number; convert it (for example with .item()).")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not math.isfinite(number):
        raise RecordError(f"metric {name} is {number}: a record holds finite numbers only; leave it out and say why.")
    return number


def _interval(name: str, interval: Interval) -> Record:
    return {
        "low": plain_number(name, interval.low),
        "high": plain_number(name, interval.high),
        "level": plain_number(name, interval.level),
        "method": interval.method,
    }
