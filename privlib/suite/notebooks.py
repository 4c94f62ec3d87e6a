"""Notebooks as files: which there are, what their parameters are, and what a command line may set them to."""

import ast
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from privlib.suite.errors import ParameterError, ProjectError

PROFILES = ("smoke", "quick", "full")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Notebook:
    """A source notebook.

    `parameters` maps each name assigned in the cell tagged `parameters` to its default. `timing` is
    `metadata.privlib.timing`: the notebook measures time, so nothing else may run beside it; `talk` is
    `metadata.privlib.talk`: which step of the talk it shows.
    """

    path: Path
    digest: str
    parameters: dict[str, Any]
    timing: bool
    title: str
    talk: str

    @property
    def name(self) -> str:
        """File name without its extension, e.g. `02_enclave_ml`."""
        return self.path.stem


def load(path: Path) -> Notebook:
    """Read a source notebook.

    Raises:
        ProjectError: it is missing or not a notebook.
        ParameterError: its `parameters` cell holds more than literal assignments.
    """
    try:
        content = path.read_bytes()
        data = json.loads(content)
        if not isinstance(data, dict) or data.get("nbformat") != 4:
            raise ProjectError(f"{path} cannot be read as a notebook: it is not in notebook format 4.")
        nbformat.validate(nbformat.from_dict(data))
        node = nbformat.reads(content.decode("utf-8"), as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise ProjectError(f"{path} cannot be read as a notebook: {error}") from error
    settings = node.metadata.get("privlib", {})
    return Notebook(
        path=path,
        digest=hashlib.sha256(content).hexdigest(),
        parameters=parameters(node, path.name),
        timing=bool(settings.get("timing", False)),
        title=_title(node) or path.stem,
        talk=str(settings.get("talk", "")),
    )


def find(root: Path, names: Sequence[str]) -> list[Notebook]:
    """The notebooks named (a path, a file name, its stem or its number), or all of `root/notebooks` in order."""
    folder = root / "notebooks"
    every = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    if not names:
        return [load(path) for path in every]
    chosen = []
    for name in names:
        fitting = [path for path in every if name in (path.name, path.stem) or path.stem.startswith(f"{name}_")]
        if Path(name).is_file():
            fitting = [Path(name).resolve()]
        if len(fitting) != 1:
            raise ProjectError(f"no notebook {name!r}; there are: {', '.join(path.stem for path in every) or 'none'}.")
        chosen.append(load(fitting[0]))
    return chosen


def parameters(node: NotebookNode, name: str) -> dict[str, Any]:
    """Names and defaults of the cell tagged `parameters`, read as Python source and not by pattern.

    Raises:
        ParameterError: a statement is not an assignment of a literal to a name.
    """
    defaults: dict[str, Any] = {}
    for cell in node.cells:
        if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
            continue
        try:
            statements = ast.parse(cell.source).body
        except SyntaxError as error:
            raise ParameterError(f"{name}: the parameters cell is not Python: {error}") from error
        for statement in statements:
            target, value = _assignment(statement)
            try:
                defaults[target] = ast.literal_eval(value)
            except (ValueError, TypeError) as error:
                raise ParameterError(
                    f"{name}: line {statement.lineno} of the parameters cell is not `name = literal`. "
                    "Move derived values into the next cell."
                ) from error
        break
    return defaults


def override(notebook: Notebook, given: dict[str, str], profile: str) -> dict[str, Any]:
    """Values to inject: `given` texts converted to the type of each default, and `profile` where it is a parameter.

    Raises:
        ParameterError: an unknown name, or a text that is not of the default's type.
    """
    unknown = sorted(set(given) - set(notebook.parameters))
    if unknown:
        raise ParameterError(
            f"{notebook.name} has no parameter {', '.join(map(repr, unknown))}; "
            f"it has: {', '.join(sorted(notebook.parameters)) or 'none'}."
        )
    if "profile" in given and given["profile"] not in PROFILES:
        raise ParameterError(f"profile {given['profile']!r} is not one of {', '.join(PROFILES)}.")
    values = {name: convert(name, text, notebook.parameters[name]) for name, text in given.items()}
    if "profile" in notebook.parameters:
        values.setdefault("profile", profile)
    return values


def convert(name: str, text: str, default: object) -> Any:
    """`text` from a command line as a value of the type of `default`; with the default None, any literal or text."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise ParameterError(f"parameter {name}: {text!r} is not a truth value; use true or false.")
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError) as error:
        if default is None:
            return text
        raise ParameterError(f"parameter {name}: {text!r} is not a {type(default).__name__}.") from error
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    raise ParameterError(f"parameter {name}: {text!r} is a {type(value).__name__}, expected {type(default).__name__}.")


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr]:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None:
        return statement.target.id, statement.value
    # Not a literal either way: the caller's message fits both.
    return "", ast.parse("f()", mode="eval").body


def _title(node: NotebookNode) -> str | None:
    for cell in node.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("# "):
                    return str(line[2:].strip())
    return None
