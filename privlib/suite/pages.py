"""Executed notebooks as pages of the report: one self-contained HTML file each, readable on a phone."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import nbformat

from privlib.suite.streams import clean

# A fenced or inline code span (kept as it is), then display or inline mathematics.
_MATH = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^$\s](?:[^$\n]*[^$\s])?)\$(?!\w)",
    re.DOTALL,
)


def templates() -> jinja2.Environment:
    """The report's templates, with automatic escaping for HTML."""
    loader = jinja2.FunctionLoader(
        lambda name: resources.files("privlib.suite").joinpath("templates", name).read_text(encoding="utf-8")
    )
    escape = jinja2.select_autoescape(enabled_extensions=("html.j2",))
    return jinja2.Environment(
        loader=loader, autoescape=escape, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def style() -> str:
    """The style sheet shared by all pages."""
    return resources.files("privlib.suite").joinpath("templates", "style.css").read_text(encoding="utf-8")


def notebook_page(executed: Path, title: str, facts: dict[str, Any]) -> str:
    """HTML of an executed notebook; nothing in it is loaded from elsewhere.

    Args:
        facts: shown under the title, label to text.
    """
    from nbconvert import HTMLExporter

    node = clean(nbformat.read(executed, as_version=4))
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = _MATH.sub(_to_mathml, cell.source)
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(node)
    # In the repository notebooks link to notebooks; among these pages, to pages.
    body = re.sub(r'href="([^":/]+)\.ipynb"', r'href="\1.html"', body)
    # Tables scroll inside themselves, so that a wide one does not widen the page.
    body = re.sub(r"(<table\b.*?</table>)", r'<div class="scroll" tabindex="0">\1</div>', body, flags=re.DOTALL)
    return templates().get_template("notebook.html.j2").render(title=title, facts=facts, body=body, style=style())


def _to_mathml(found: "re.Match[str]") -> str:
    """LaTeX as MathML, which browsers draw without a script."""
    import latex2mathml.converter
    from latex2mathml.exceptions import NumeratorNotFoundError

    if found["code"] is not None:
        return found[0]
    latex, display = (found["inline"], "inline") if found["display"] is None else (found["display"], "block")
    try:
        return str(latex2mathml.converter.convert(latex, display=display))
    except (NumeratorNotFoundError, IndexError, KeyError, ValueError):
        return found[0]
