"""Metrics: what is accepted, what is refused, and the digest over the deterministic ones."""

import math
from typing import Any

import numpy as np
import pytest

from privlib.suite import metrics
from privlib.suite.errors import RecordError


def _metric(name: str = "a/b/c", value: float | str = 1.0, **changes: Any) -> dict[str, Any]:
    return metrics.metric(name, value, "s", **{"nature": "deterministic", **changes})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_non_finite_values_are_refused(value: float) -> None:
    with pytest.raises(RecordError, match="finite"):
        _metric(value=value)


@pytest.mark.parametrize("name", ["throughput", "VGG9/a/b", "a//b", "/a/b", "a/b/", "a b/c", "a/b\n"])
def test_names_that_are_not_paths_are_refused(name: str) -> None:
    with pytest.raises(RecordError, match="path"):
        _metric(name)


def test_a_reported_number_needs_its_source() -> None:
    with pytest.raises(RecordError, match="source"):
        _metric(kind="reported")
    assert _metric(kind="reported", source="arXiv 1807.06689")["source"] == "arXiv 1807.06689"


@pytest.mark.parametrize("changes", [{"kind": "guessed"}, {"nature": "stable"}, {"value": "abc", "nature": "timing"}])
def test_unknown_kinds_natures_and_text_that_is_no_digest_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        _metric(**changes)


def test_numpy_scalars_become_plain_numbers() -> None:
    float32: Any = np.float32(0.5)
    int64: Any = np.int64(5)
    assert type(_metric(value=float32)["value"]) is float
    assert type(_metric(value=int64)["value"]) is int
    with pytest.raises(RecordError, match="not a number"):
        _metric(value=np.zeros(3))  # type: ignore[arg-type]


def test_digest_depends_on_deterministic_metrics_only_and_not_on_their_order() -> None:
    first, second = _metric("a/b/c", 1), _metric("a/b/d", 2.5)
    timing = _metric("a/b/t", 9.0, nature="timing")
    digest = metrics.deterministic_digest([first, second])
    assert metrics.deterministic_digest([timing, second, first]) == digest
    assert metrics.deterministic_digest([first, _metric("a/b/d", 2.5000000001)]) != digest
