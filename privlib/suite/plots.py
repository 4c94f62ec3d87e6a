"""One look for every figure: a colour-blind-safe palette (Okabe & Ito 2008), readable at column width."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from privlib.suite.tables import label

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from privlib.suite.stats import Interval

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A7A7A",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)
OURS = BLUE


def figure(width: float = 7.0, height: float = 3.4, **subplots: Any) -> "tuple[Figure, Any]":
    """A new figure and its axes in privlib's style; the keywords are those of `matplotlib.pyplot.subplots`."""
    import matplotlib.pyplot as plt
    from cycler import cycler

    style: Any = {
        "font.size": 10.5,
        "axes.prop_cycle": cycler(color=CYCLE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E3E6EA",
        "legend.frameon": False,
    }
    with plt.rc_context(style):
        return plt.subplots(figsize=(width, height), layout="constrained", **subplots)


def grouped_bars(
    axes: "Axes",
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    intervals: "Mapping[str, Sequence[Interval | None]] | None" = None,
) -> None:
    """Horizontal bars: a group a label, a bar a series, the value written at its end, the 95% interval as a whisker.

    Args:
        series: name to one value a group; `privlib` (or `privlib private`) gets the palette's first colour, the
            others the next ones.
    """
    others = [colour for colour in CYCLE if colour != OURS]
    colours = {name: OURS if name in ("privlib", "privlib private") else others.pop(0) for name in series}
    height = 0.8 / len(series)
    largest = max(value for values in series.values() for value in values)
    for position, (name, values) in enumerate(series.items()):
        at = [index + (position - (len(series) - 1) / 2) * height for index in range(len(groups))]
        axes.barh(at, values, height * 0.9, color=colours[name], label=label(name))
        for index, (y, value) in enumerate(zip(at, values, strict=True)):
            interval = intervals[name][index] if intervals else None
            end = value
            if interval is not None:
                axes.plot([interval.low, interval.high], [y, y], color="#1a1f26", linewidth=1.2)
                end = max(value, interval.high)
            text = f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
            axes.text(end + largest * 0.012, y, text, va="center", fontsize=9)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(xlabel)
    axes.set_xlim(0, largest * 1.14)
    if len(series) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=len(series), frameon=False)


def table(rows: Sequence[Mapping[str, Any]]) -> "HTML":
    """Rows as an HTML table to end a cell with; texts that hold HTML are escaped, links are made by `link`."""
    from IPython.display import HTML

    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(name, ''))}</td>" for name in columns) + "</tr>" for row in rows
    )
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


class Link(str):
    """Text of a table cell that leads to `address`."""

    address: str


def link(text: str, address: str) -> Link:
    """A cell of `table` that links to `address`."""
    made = Link(text)
    made.address = address
    return made


def _cell(value: object) -> str:
    if isinstance(value, Link):
        return f'<a href="{escape(value.address)}">{escape(value)}</a>'
    return escape(str(value))
