"""What `00_index` shows: the steps of the talk that have a notebook, the latest runs, and the talk's numbers."""

from pathlib import Path

from privlib.suite import bench, notebooks, records, report, system, tables


def steps(root: Path) -> list[dict[str, str]]:
    """Name, title and step of the talk (`metadata.privlib.talk`) of each notebook but the index, in order."""
    return [
        {"name": notebook.name, "title": notebook.title, "talk": notebook.talk}
        for notebook in notebooks.find(root, [])
        if notebook.name != "00_index"
    ]


def latest_runs(root: Path) -> list[dict[str, str]]:
    """The newest run of every notebook and benchmark on this system, as rows of a table."""
    system_id = str(system.describe()["id"])
    rows = []
    for name in [*(notebook.name for notebook in notebooks.find(root, [])), *bench.names(root)]:
        found = records.find(root / "results", name, system_id)
        data = found[-1].data if found else None
        rows.append(
            {
                "what": name,
                "status": data["status"] if data else "not run yet",
                "profile": data["profile"] if data else "",
                "when (UTC)": data["start"][:16].replace("T", " ") if data else "",
            }
        )
    return rows


def talk_table(root: Path) -> list[dict[str, str]]:
    """The talk's numbers, this system's own beside them, and the sources, as rows of a table."""
    runs = records.find(root / "results", system_id=str(system.describe()["id"]))
    return [
        {
            "what": row["label"],
            "reported": tables.with_unit(row["value"], row["unit"]),
            "this machine": tables.with_unit(row["ours"]["metric"]["value"], row["ours"]["metric"]["unit"])
            if row["ours"]
            else "not run here yet",
            "source": row["source"],
        }
        for row in report.talk_numbers(runs)
    ]
