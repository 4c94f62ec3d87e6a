"""Executed notebooks as a reader should see them: progress bars in their final state, no leftovers of widgets.

A kernel's streams hold every frame of a progress bar, separated by carriage returns. A terminal would show only the
last one, and so does `clean`, which replays the control characters that progress bars use.
"""

import re

from nbformat import NotebookNode

_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "widgets"
# Carriage return, newline, backspace, cursor up, erase to the end of the line, any other escape sequence, or text.
_TOKEN = re.compile(
    r"\r|\n|\x08|\x1b\[(?P<up>\d*)A|\x1b\[(?P<erase>[012]?)K|\x1b\[[0-9;?]*[A-Za-z]|[^\r\n\x08\x1b]+|\x1b"
)


def clean(node: NotebookNode) -> NotebookNode:
    """Collapse overwritten text in all outputs of `node` and drop widget views, in place; returns `node`.

    Streams that carry overwritten text are joined by name within a cell, because a bar on stderr that is interrupted
    by lines on stdout arrives in pieces. Errors are left as they are.
    """
    for cell in node.cells:
        if cell.cell_type != "code":
            continue
        outputs = _join(_without_widgets(cell.outputs))
        for output in outputs:
            if output.output_type == "stream":
                output.text = replay(output.text)
        cell.outputs = [output for output in outputs if output.output_type != "stream" or output.text.strip()]
    node.metadata.pop(_WIDGET_STATE, None)
    return node


def replay(text: str) -> str:
    """What a terminal of unlimited width shows after `text`; colours are kept, cursor movement is carried out."""
    if not any(control in text for control in "\r\x08\x1b"):
        return text
    lines: list[list[str]] = [[]]
    row = column = 0
    colour = ""
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if piece == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append([])
        elif piece == "\r":
            column = 0
        elif piece == "\x08":
            column = max(0, column - 1)
        elif token.group("up") is not None:
            row = max(0, row - int(token.group("up") or 1))
        elif token.group("erase") is not None:
            _erase(lines[row], column, token.group("erase") or "0")
        elif piece.startswith("\x1b"):
            # A colour change belongs to the next character; other sequences move nothing we keep.
            colour += piece if piece.endswith("m") else ""
        else:
            line = lines[row]
            line.extend(" " * (column - len(line)))
            line[column : column + len(piece)] = [colour + piece[0], *piece[1:]]
            column, colour = column + len(piece), ""
    shown = "\n".join("".join(line).rstrip(" ") for line in lines)
    return shown + colour


def _erase(line: list[str], column: int, mode: str) -> None:
    if mode == "0":
        del line[column:]
    elif mode == "2":
        line.clear()
    else:
        line[: column + 1] = [" "] * min(len(line), column + 1)


def _without_widgets(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if _WIDGET in data:
            continue
        kept.append(output)
    return kept


def _join(outputs: list[NotebookNode]) -> list[NotebookNode]:
    overwritten = {o.name for o in outputs if o.output_type == "stream" and ("\r" in o.text or "\x1b[A" in o.text)}
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            same = [o for o in joined if o.output_type == "stream" and o.name == output.name]
            if same and (output.name in overwritten or same[-1] is joined[-1]):
                same[-1].text += output.text
                continue
        joined.append(output)
    return joined
