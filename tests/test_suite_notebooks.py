"""Parameters cells and the values a command line may give them (case 43)."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from privlib.suite import notebooks
from privlib.suite.errors import ParameterError, ProjectError

CASE_43 = 's = "a=b"\nlr = 1e-3  # eps=2\nprofile = "quick"\n'


def _write(folder: Path, source: str, name: str = "01_x") -> notebooks.Notebook:
    cell = new_code_cell(source)
    cell.metadata["tags"] = ["parameters"]
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[cell]), path)
    return notebooks.load(path)


def test_defaults_with_equals_signs_are_known(tmp_path: Path) -> None:
    notebook = _write(tmp_path, CASE_43)
    assert notebook.parameters == {"s": "a=b", "lr": 1e-3, "profile": "quick"}
    values = notebooks.override(notebook, {"s": "c=d=e", "lr": "2"}, "smoke")
    assert values == {"s": "c=d=e", "lr": 2.0, "profile": "smoke"}


def test_a_misspelt_name_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no parameter 'Lr'.*lr, profile, s"):
        notebooks.override(_write(tmp_path, CASE_43), {"Lr": "1"}, "quick")


def test_profile_is_given_only_to_notebooks_that_have_it(tmp_path: Path) -> None:
    assert notebooks.override(_write(tmp_path, "n = 1"), {}, "smoke") == {}


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "n = 2 * 3",
        "n = f()",
        "a, b = 1, 2",
        "a = b = 1",
        "x.y = 1",
        "n: int",
        "for i in []:\n    pass",
        "n = [i]",
        "n =",
    ],
)
def test_anything_but_literals_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ParameterError, match="parameters cell"):
        _write(tmp_path, source)


def test_annotated_negative_and_compound_literals_are_read(tmp_path: Path) -> None:
    notebook = _write(tmp_path, "n: int = -3\nsizes = [1, 2]\noptions = {'a': None}\nflag = False\nnothing = None")
    assert notebook.parameters == {"n": -3, "sizes": [1, 2], "options": {"a": None}, "flag": False, "nothing": None}


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("8", 4, 8),
        ("-1", 4, -1),
        ("1e-3", 0.5, 1e-3),
        ("3", 0.5, 3.0),
        ("true", False, True),
        ("0", True, False),
        ("[4, 5]", [1], [4, 5]),
        ("12", "text", "12"),
        ("", "text", ""),
        ("12", None, 12),
        ("word", None, "word"),
    ],
)
def test_values_take_the_type_of_their_default(text: str, default: object, value: object) -> None:
    converted = notebooks.convert("n", text, default)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("text", "default"), [("0.5", 4), ("x", 4), ("True", 4), ("maybe", True), ("4", [1]), ("__import__('os')", 1.0)]
)
def test_values_of_another_type_are_refused(text: str, default: Any) -> None:
    with pytest.raises(ParameterError, match="parameter n"):
        notebooks.convert("n", text, default)


def test_notebooks_are_found_by_number_name_and_path(tmp_path: Path) -> None:
    first, second = _write(tmp_path, "n = 1", "01_one"), _write(tmp_path, "n = 1", "02_two")
    for name in ("02", "02_two", "02_two.ipynb", str(second.path)):
        assert [found.name for found in notebooks.find(tmp_path, [name])] == ["02_two"]
    assert [found.name for found in notebooks.find(tmp_path, [])] == [first.name, second.name]
    with pytest.raises(ProjectError, match="01_one, 02_two"):
        notebooks.find(tmp_path, ["03"])


@pytest.mark.parametrize("content", [b"", b"not json", b"{}", b'{"cells": 3}', b"\xff\xfe", b'{"nbformat": 4'])
def test_files_that_are_no_notebooks_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ipynb"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=r"bad\.ipynb"):
        notebooks.load(path)
