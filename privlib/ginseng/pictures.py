"""Pictures of simulations, drawn into axes that the caller made with `privlib.suite.plots.figure`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from privlib.ginseng.attacks import Outcome, Verdict
from privlib.ginseng.memory.dram import DRAM
from privlib.ginseng.report import CycleReport, LayerReport
from privlib.ginseng.studies import Point
from privlib.ginseng.vta.config import PUBLISHED
from privlib.ginseng.vta.isa import Engine
from privlib.suite.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from privlib.suite.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODE_COLOURS = {"ctr": GREY, "mee": VERMILION, "mgx": ORANGE, "tec": BLUE}
_NETWORK_COLOURS = {"resnet18": BLUE, "resnet32": ORANGE, "vgg9": GREEN, "mobilenet": PURPLE}
_ACTIVITIES = {
    "load inputs": SKY,
    "load weights": BLUE,
    "load the rest": GREY,
    "multiply": ORANGE,
    "add, shift, clip": GREEN,
    "store": VERMILION,
}
_METADATA = ("tags", "macs", "counters", "tree")
_KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "weights": (("weights",), BLUE),
    "activations": (("activations",), SKY),
    "instructions, micro-ops, biases": (("instructions", "uops", "bias"), GREEN),
    "bytes nobody asked for": (("overfetch",), ORANGE),
    "tags, counters, tree": (_METADATA, VERMILION),
}
_VERDICTS = {
    Verdict.HIDDEN: (GREEN, "hidden"),
    Verdict.DETECTED: (GREEN, "detected"),
    Verdict.READABLE: (VERMILION, "readable"),
    Verdict.WRONG: (VERMILION, "wrong result"),
    Verdict.NO_EFFECT: (GREY, "no effect"),
    Verdict.NOTHING_TO_ATTACK: (GREY, "no tags"),
}


def mode_label(mode: str) -> str:
    """A protection mode for people."""
    return "no protection" if mode == "none" else label(mode)


def network_colour(name: str) -> str:
    """One colour for each network, the same in every picture."""
    return _NETWORK_COLOURS.get(name, SKY)


def activity(what: str) -> str:
    """The legend's word for an instruction (`privlib.ginseng.report.describe`)."""
    if what.startswith("LOAD"):
        return {"LOAD INP": "load inputs", "LOAD WGT": "load weights"}.get(what, "load the rest")
    if what.startswith("STORE"):
        return "store"
    return "multiply" if what == "GEMM" else "add, shift, clip"


def timeline(axes: "Axes", layer: LayerReport, until: int) -> None:
    """The first `until` cycles of a layer simulated with `trace=True`: one lane an engine, one bar an instruction."""
    lanes = {Engine.LOAD: 2, Engine.COMPUTE: 1, Engine.STORE: 0}
    shown = [span for span in layer.spans if span.start < until]
    for name, colour in _ACTIVITIES.items():
        for engine, lane in lanes.items():
            bars = [
                (span.start, min(span.end, until) - span.start)
                for span in shown
                if span.engine is engine and activity(span.what) == name
            ]
            axes.broken_barh(bars, (lane - 0.38, 0.76), color=colour, alpha=0.75, linewidth=0.5, edgecolor="white")
    axes.set_yticks(list(lanes.values()), ["load", "compute", "store"])
    axes.set_xlim(0, until)
    axes.grid(visible=False, axis="y")


def timeline_legend(axes: "Axes") -> None:
    """The colours of `timeline`, below the axes."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in _ACTIVITIES.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, frameon=False)


def overheads(axes: "Sequence[Axes]", reports: Mapping[str, Mapping[str, CycleReport]]) -> None:
    """Two axes, cycles and bytes: what each mode costs over no protection, network by network, in percent."""
    for index, (axis, title) in enumerate(zip(axes, ("more cycles (%)", "more bytes (%)"), strict=True)):
        largest = 0.0
        for position, (mode, colour) in enumerate(MODE_COLOURS.items()):
            values = [100 * found[mode].overhead(found["none"])[index] for found in reports.values()]
            at = [group + (position - 1.5) * 0.2 for group in range(len(values))]
            axis.barh(at, values, 0.18, color=colour, label=label(mode))
            largest = max(largest, *values)
            for y, value in zip(at, values, strict=True):
                axis.text(value, y, f" {value:.2f}", va="center", fontsize=8)
        axis.set_yticks(range(len(reports)), [label(name) for name in reports])
        axis.set_xlabel(title)
        axis.set_xlim(0, largest * 1.2)
        axis.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    found = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*found, loc="outside lower center", ncols=len(MODE_COLOURS), frameon=False)


def bytes_moved(axes: "Axes", reports: Mapping[str, CycleReport]) -> None:
    """Bytes by what they are, one bar a mode, in MiB."""
    modes = list(reports)
    left = [0.0] * len(modes)
    for name, (kinds, colour) in _KINDS.items():
        widths = [sum(reports[mode].moved.get(kind, 0) for kind in kinds) / 2**20 for mode in modes]
        axes.barh(modes, widths, 0.7, left=left, color=colour, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for position, total in enumerate(left):
        axes.text(total, position, f" {total:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(modes)), [mode_label(mode) for mode in modes])
    axes.invert_yaxis()
    axes.set_xlim(0, max(left) * 1.1)
    axes.set_xlabel("MiB over the memory port")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)


def extra_cycles(axes: "Axes", reports: Mapping[str, tuple[CycleReport, CycleReport]]) -> None:
    """Each layer as a point: its cycles without protection, and how many more with it."""
    for name, (free, protected) in reports.items():
        pairs = list(zip(free.layers, protected.layers, strict=True))
        axes.scatter(
            [one.cycles for one, _ in pairs],
            [two.cycles - one.cycles for one, two in pairs],
            s=28, color=network_colour(name), alpha=0.7, label=label(name),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("cycles of the layer without protection")
    axes.set_ylabel("extra cycles with TEC")
    axes.legend(loc="upper left", fontsize=9, frameon=False)


def block_sizes(axes: "Axes", curves: Mapping[str, Mapping[str, float]]) -> None:
    """Extra bytes by size of the authentication block, in percent, and dotted for the blocks chosen for each tensor."""
    for name, curve in curves.items():
        sizes = [int(size.split()[0]) for size in curve if size != "chosen"]
        axes.plot(
            sizes, [100 * curve[f"{size} B"] for size in sizes], "o-", color=network_colour(name), label=label(name)
        )
        axes.axhline(100 * curve["chosen"], color=network_colour(name), linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("bytes in one authentication block (dotted: chosen for each tensor)")
    axes.set_ylabel("extra bytes (%)")
    axes.legend(loc="upper left", fontsize=9, frameon=False)


def roofline(axes: "Axes", reports: Mapping[str, CycleReport]) -> None:
    """Each layer's multiplications a cycle against its multiplications a byte moved, under the roofs of array and
    port."""
    array, port = PUBLISHED.block**2, DRAM.bus_bytes
    reach = (0.05, 500.0)
    corner = array / port
    axes.plot([reach[0], corner, reach[1]], [port * reach[0], array, array], color="#1a1f26", linewidth=1.2)
    for name, report in reports.items():
        layers = [layer for layer in report.layers if layer.macs]
        axes.scatter(
            [layer.macs / layer.bytes_moved for layer in layers],
            [layer.macs / layer.cycles for layer in layers],
            s=28, color=network_colour(name), alpha=0.7, label=label(name),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("multiplications a byte moved")
    axes.set_ylabel("multiplications a cycle")
    axes.legend(loc="lower right", fontsize=9, frameon=False)


def memories(
    axes: "Sequence[Axes]",
    latency: Mapping[str, Sequence[Point]],
    width: Mapping[str, Sequence[Point]],
    enough: Mapping[str, Sequence[Point]],
) -> None:
    """Two axes: overhead of full protection against DRAM latency, and against the port's width with one encryption
    core; dashed, with `enough` cores."""
    for axis, points in ((axes[0], latency), (axes[1], width)):
        for name, found in points.items():
            axis.plot(*_overhead_line(found), "o-", color=network_colour(name), label=label(name))
    for name, found in enough.items():
        axes[1].plot(*_overhead_line(found), "--", color=network_colour(name), label=f"{label(name)}, enough cores")
    widths = [point.setting for point in next(iter(width.values()))]
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(widths, [str(bits) for bits in widths])
    axes[0].set_ylim(0, 1)
    axes[0].set_xlabel("DRAM latency (cycles)")
    axes[1].set_xlabel("memory port (bits), one encryption core")
    axes[0].set_ylabel("more cycles with TEC (%)")
    for axis in axes:
        axis.legend(fontsize=9, frameon=False)


def _overhead_line(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [point.setting for point in points], [100 * point.cycle_overhead for point in points]


def attack_matrix(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    """Attacks down, modes across; what each attack came to, in words and colour."""
    attacks = list(dict.fromkeys(outcome.attack for outcome in outcomes))
    modes = list(dict.fromkeys(outcome.mode for outcome in outcomes))
    for outcome in outcomes:
        colour, word = _VERDICTS[outcome.verdict]
        x, y = modes.index(outcome.mode), attacks.index(outcome.attack)
        axes.barh(y, 0.96, 0.9, left=x - 0.48, color=colour, alpha=0.3)
        axes.text(x, y, word, ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(modes)), [mode_label(mode) for mode in modes])
    axes.set_yticks(range(len(attacks)), attacks)
    axes.set_xlim(-0.5, len(modes) - 0.5)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def attack_summary(outcomes: Sequence[Outcome]) -> str:
    """The attack matrix in a sentence, for its alternative text."""
    stopped = Counter(outcome.mode for outcome in outcomes if outcome.verdict.stopped)
    total = Counter(outcome.mode for outcome in outcomes)
    return ", ".join(f"{mode_label(mode)} stops {stopped[mode]} of {total[mode]} attacks" for mode in total)


def areas(axes: "Axes", names: Sequence[str], look_up_tables: Sequence[int], flip_flops: Sequence[int]) -> None:
    """Look-up tables and flip-flops of blocks, the first name being the whole core."""
    for offset, (values, colour, name) in enumerate(
        ((look_up_tables, BLUE, "look-up tables"), (flip_flops, PURPLE, "flip-flops"))
    ):
        at = [index + (offset - 0.5) * 0.4 for index in range(len(names))]
        axes.barh(at, values, 0.36, color=colour, label=name)
        for y, value in zip(at, values, strict=True):
            axes.text(value, y, f" {value:,}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("cells of a 7-series part after synthesis")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="center right", frameon=False)


def trained_networks(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of a table out of the metrics of a benchmark record: each trained network in int8 beside float, on the
    device, and beside a CPU enclave. Empty where the record has none."""
    rows = []
    for path in metrics:
        name, found, _ = path.partition("_trained/device/images")
        if not found:
            continue
        values = {
            other.partition("/")[2]: metrics[other]["value"] for other in metrics if other.startswith(f"{name}_t")
        }
        enclave = values.get("cpu_enclave/throughput_of_trained")
        rows.append(
            {
                "network": label(name),
                "float32, right": f"{values['float32/test_accuracy']:.1%}",
                "int8, right": f"{values['int8/test_accuracy']:.1%}",
                "same class": f"{values['int8/agreement_with_float']:.1%}",
                "same bits as unprotected": f"{values['device/bit_exact_images']} of {values['device/images']} images",
                "device, images/s (simulated)": f"{values['tec/throughput_of_trained_at_100_mhz']:,.0f}",
                "CPU enclave, images/s (measured)": f"{enclave:,.0f}" if enclave else "not measured",
            }
        )
    return rows
