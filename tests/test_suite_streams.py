"""Case 53: carriage returns collapse to what a terminal would show, widgets disappear, errors stay."""

import io

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from tqdm import tqdm

from privlib.suite.streams import clean, replay


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\nlines\n", "plain\nlines\n"),
        ("10%\r 50%\r100%\n", "100%\n"),
        ("long line\rshort\n", "shortline\n"),
        ("long line\r\x1b[Kshort\n", "short\n"),
        ("abc\x08d", "abd"),
        ("first\nsecond\x1b[A\rFIRST", "FIRST\nsecond"),
        ("\r\n", "\n"),
        ("\x1b[31mred\x1b[0m end", "\x1b[31mred\x1b[0m end"),
        ("σ=1\rε=2", "ε=2"),
        ("\x1b[999A\rtop", "top"),
        ("a\x1b", "a"),
    ],
)
def test_replay_shows_what_a_terminal_shows(text: str, shown: str) -> None:
    assert replay(text) == shown


def _notebook(*outputs: NotebookNode) -> NotebookNode:
    return new_notebook(cells=[new_code_cell("x", outputs=list(outputs))])


def test_nested_bars_leave_one_line_each() -> None:
    screen = io.StringIO()
    for _ in tqdm(range(3), desc="outer", file=screen, mininterval=0):
        for _ in tqdm(range(50), desc="inner", file=screen, mininterval=0, leave=True):
            pass
    lines = [line for line in replay(screen.getvalue()).splitlines() if line.strip()]
    assert sorted(line[:11] for line in lines) == ["inner: 100%"] * 3 + ["outer: 100%"]


def test_a_bar_interrupted_by_other_output_stays_one_line() -> None:
    pieces = [
        ("stderr", "\r 10%"),
        ("stdout", "loss 3\n"),
        ("stderr", "\r 60%"),
        ("stdout", "loss 2\n"),
        ("stderr", "\r100%\n"),
    ]
    node = clean(_notebook(*(new_output("stream", name=name, text=text) for name, text in pieces)))
    texts = {output.name: output.text for output in node.cells[0].outputs}
    assert texts == {"stderr": "100%\n", "stdout": "loss 3\nloss 2\n"}


def test_widget_views_are_dropped_and_errors_kept() -> None:
    widget = new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "0%"}
    )
    error = new_output("error", ename="ValueError", evalue="real text\r kept", traceback=["line 1\r kept"])
    node = _notebook(widget, error)
    node.metadata["widgets"] = {"state": {}}
    clean(node)
    assert [output.output_type for output in node.cells[0].outputs] == ["error"]
    assert node.cells[0].outputs[0].evalue == "real text\r kept"
    assert "widgets" not in node.metadata
    nbformat.validate(node)
