"""Small projects for the suite's tests: notebooks made of a few cells, and the command run on them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

REPOSITORY = Path(__file__).resolve().parents[1]


def write_notebook(root: Path, name: str, cells: Sequence[str], parameters: str = "", **metadata: Any) -> Path:
    """`root/notebooks/<name>.ipynb` with a title, a parameters cell and code cells."""
    made = [new_markdown_cell(f"# Title of {name}")]
    if parameters:
        made.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [new_code_cell(cell) for cell in cells]
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / "results").mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=made, metadata=metadata), path)
    return path


def environment(root: Path) -> dict[str, str]:
    """Environment in which `python -m privlib.suite.cli` works on `root`, with a home of its own."""
    home = root / "home"
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON", "PRIVLIB", "XDG"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PRIVLIB_PROJECT": str(root), "HOME": str(home)}


def start_privlib(root: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start the command in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "privlib.suite.cli", *arguments],
        cwd=root,
        env={**environment(root), **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def privlib(root: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the command and check its exit code; returns what it wrote to standard output and error."""
    process = start_privlib(root, *arguments)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
    return output, errors
