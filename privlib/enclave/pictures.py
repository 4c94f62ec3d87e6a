"""Pictures of enclaves: who says what to whom, what is mapped, what SGX would add."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from privlib.enclave.costs import ModelledCost
from privlib.enclave.platforms.base import LaunchReport
from privlib.suite import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LANES = ("provider", "host", "enclave", "consumer")
_STEPS = (
    ("consumer", "enclave", "nonce: who are you?"),
    ("enclave", "consumer", "quote: measurement, key, nonce"),
    ("provider", "enclave", "key, sealed to the quoted key, with terms"),
    ("host", "enclave", "ciphertext of the dataset"),
    ("consumer", "enclave", "train, over the channel"),
    ("enclave", "host", "sealed ledger: charged beforehand"),
    ("enclave", "consumer", "release: parameters, ε, certificate"),
)


def conversation() -> tuple["Figure", str]:
    """The steps from attestation to release, and the alternative text."""
    figure, axes = plots.figure(8.0, 3.8)
    for at, name in enumerate(_LANES):
        colour = plots.BLUE if name == "enclave" else plots.GREY
        axes.plot([at, at], [0.4, -len(_STEPS)], color=colour, linewidth=3 if name == "enclave" else 1.5, zorder=1)
        axes.text(at, 0.65, name, ha="center", weight="bold")
    for number, (source, target, text) in enumerate(_STEPS):
        start, end, y = _LANES.index(source), _LANES.index(target), -number - 0.35
        arrow = {"arrowstyle": "->", "color": plots.ORANGE, "linewidth": 1.4}
        axes.annotate("", (end, y), (start, y), arrowprops=arrow)
        middle, back = (start + end) / 2, {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        axes.text(middle, y + 0.12, f"{number + 1}. {text}", ha="center", va="bottom", fontsize=9, bbox=back)
    axes.set(xlim=(-0.5, len(_LANES) - 0.5), ylim=(-len(_STEPS) - 0.2, 1.1))
    axes.axis("off")
    told = "; ".join(
        f"{number}. {source} to {target}: {text}" for number, (source, target, text) in enumerate(_STEPS, 1)
    )
    return figure, f"Sequence of messages between {', '.join(_LANES)}. {told}."


def mapped(report: LaunchReport, most: int = 10) -> tuple["Figure", str]:
    """Megabytes of code and data that are mapped beside Python, the largest files; and the alternative text."""
    own = [file for file in report.mapped if not file.name.startswith(("host/", "python/"))]
    rows = [(file.name.rsplit("/", 1)[-1].partition(".")[0], file.size / 1e6) for file in own[:most]]
    rows.append((f"{len(own) - len(rows)} others", sum(file.size for file in own[most:]) / 1e6))
    figure, axes = plots.figure(7.0, 0.6 + 0.28 * len(rows))
    axes.barh([name for name, _ in rows], [size for _, size in rows], color=plots.BLUE)
    axes.invert_yaxis()
    axes.set_xlabel("MB mapped")
    told = ", ".join(f"{name} {size:.1f}" for name, size in rows)
    return figure, f"Bar chart of megabytes mapped into the enclave beside Python: {told}."


def modelled(costs: Mapping[str, ModelledCost], measured: Mapping[str, float]) -> tuple["Figure", str]:
    """What SGX would add to each kind of work, at least and at most, beside its measured seconds; and the alternative
    text."""
    figure, axes = plots.figure(7.0, 1.0 + 0.7 * len(costs))
    told: list[str] = []
    for at, (name, cost) in enumerate(costs.items()):
        total = cost.total
        axes.barh(at, measured[name], 0.35, color=plots.BLUE, label="measured" if not at else None)
        axes.plot([max(total.least, 1e-6), max(total.most, 1e-6)], [at + 0.35] * 2, color=plots.VERMILION, linewidth=6,
                  solid_capstyle="butt", label="modelled: added by SGX" if not at else None)  # fmt: skip
        told.append(f"{name}: {measured[name]:.3g} s measured, {total} added")
    axes.set(xscale="log", xlabel="seconds (logarithmic)")
    axes.set_yticks(range(len(costs)), list(costs))
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure, f"Bars of measured seconds and ranges of modelled additions. {'; '.join(told)}."


def cost_rows(costs: Mapping[str, ModelledCost]) -> Sequence[dict[str, str]]:
    """The modelled costs as a table."""
    parts = ("transitions", "copies", "paging", "total")
    return [{"work": name, **{part: str(getattr(cost, part)) for part in parts}} for name, cost in costs.items()]
