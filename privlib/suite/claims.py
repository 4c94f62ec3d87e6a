"""The talk's claims, slide by slide: which notebook builds each, and what the records here say about it."""

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from privlib.suite import notebooks, tables
from privlib.suite.records import Run


def claims() -> list[dict[str, Any]]:
    """From the package's data file: claim, notebook, numbers as (benchmark, metric, what it is)."""
    text = resources.files("privlib.suite").joinpath("claims.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)["claims"]
    return found


def claim_rows(root: Path, runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Each claim with its notebook's title (None where that is not built yet) and the numbers of `runs` that speak to
    it: text, what it is, kind, and the benchmark it is from."""
    newest = {run.data["benchmark"]: run for run in runs if run.data["status"] == "ok"}
    titles = {notebook.name: notebook.title for notebook in notebooks.find(root, [])}
    rows = []
    for claim in claims():
        numbers = []
        for benchmark, name, label in claim["numbers"]:
            metric = newest[benchmark].metrics().get(name) if benchmark in newest else None
            if metric is not None:
                text = tables.with_unit(metric["value"], metric["unit"])
                numbers.append({"label": label, "text": text, "kind": metric["kind"], "benchmark": benchmark})
        built = claim["notebook"] if claim["notebook"] in titles else None
        rows.append(
            {"claim": claim["claim"], "notebook": built, "title": titles.get(claim["notebook"]), "numbers": numbers}
        )
    return rows
