"""Pictures of the market, drawn into axes that the caller made with `privlib.suite.plots.figure`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from privlib.sterling.chain.base import ETHER
from privlib.sterling.exhaustion import Exhaustion
from privlib.sterling.gas import Use
from privlib.sterling.story import Moment, Story
from privlib.suite.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SENDERS = {
    "registry.register": "hospital, once", "states.create": "hospital, once",
    "registry.allow_measurement": "hospital, once",
    "attestation.register": "cloud", "escrow.complete": "cloud",
    "escrow.request": "university",
    "states.commit": "hospital, every job", "escrow.approve": "hospital, every job",
    "escrow.expire": "anybody",
}  # fmt: skip
"""Who sends what kind of transaction in the story."""
PARTIES = ("provider", "consumer", "executor's host", "enclaves", "chain")
_CLEAR, _NOISED, _SEALED, _PUBLIC, _NOTHING = VERMILION, ORANGE, BLUE, GREY, "#FFFFFF"
KINDS = {
    _CLEAR: "images or keys in the clear", _NOISED: "only noised results", _SEALED: "ciphertext",
    _PUBLIC: "public facts, hashes, numbers", _NOTHING: "nothing",
}  # fmt: skip
SEEN: dict[str, tuple[tuple[str, str], ...]] = {
    "1 upload": (
        (_CLEAR, "its own images\nand its key"), (_PUBLIC, "terms, price"), (_SEALED, "ciphertext\nin storage"),
        (_CLEAR, "the key, in the\npolicy's enclave"), (_PUBLIC, "hashes, budget,\nprice"),
    ),
    "2 training\ncontract": (
        (_PUBLIC, "the program,\nwhen asked"), (_PUBLIC, "its own program\nand the verdict"), (_PUBLIC, "the program"),
        (_NOTHING, ""), (_PUBLIC, "digests of program\nand enclave"),
    ),
    "3 request": (
        (_PUBLIC, "contract,\ncredentials"), (_PUBLIC, "price, quote"), (_PUBLIC, "that there\nis a job"),
        (_PUBLIC, "its quote binds\nits session key"), (_PUBLIC, "payment locked,\nquote checked"),
    ),
    "4 checks": (
        (_PUBLIC, "verdict, quote,\nwhat it costs"), (_NOTHING, ""), (_SEALED, "wrapped keys"),
        (_CLEAR, "keys, claims,\npolicy's state"), (_PUBLIC, "each budget\ncharged"),
    ),
    "4 training": (
        (_NOTHING, ""), (_NOTHING, ""), (_SEALED, "ciphertext,\ntime and size"),
        (_CLEAR, "all images,\nkeys, gradients"), (_NOTHING, ""),
    ),
    "4 delivery": (
        (_PUBLIC, "its payment"), (_NOISED, "the model and\nits certificate"), (_SEALED, "the sealed model"),
        (_NOISED, "the model"), (_PUBLIC, "hash of the output,\nthe split"),
    ),
}  # fmt: skip
"""What each party sees at each step: (kind, words)."""


def who_sees_what(axes: "Axes") -> str:
    """Steps down, parties across; a colour for the kind of what is seen. Returns alternative text."""
    for row, cells in enumerate(SEEN.values()):
        for column, (colour, words) in enumerate(cells):
            axes.barh(row, 0.95, 0.9, left=column - 0.475, color=colour, alpha=0.3, linewidth=0)
            axes.text(column, row, words or "–", ha="center", va="center", fontsize=8.5, linespacing=1.15)
    for colour, meaning in KINDS.items():
        if colour != _NOTHING:
            axes.barh([0], [0], color=colour, alpha=0.3, label=meaning)
    axes.set_xticks(range(len(PARTIES)), PARTIES)
    axes.set_yticks(range(len(SEEN)), list(SEEN))
    axes.set_xlim(-0.5, len(PARTIES) - 0.5)
    axes.set_ylim(len(SEEN) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, 0), ncols=4, fontsize=8.5, handlelength=1.2)
    clear = [
        f"{party} at {step}".replace("\n", " ")
        for step, cells in SEEN.items()
        for party, (colour, _) in zip(PARTIES, cells, strict=True)
        if colour == _CLEAR
    ]
    return f"Table of five parties at six steps. Images or keys are seen in the clear only by: {', '.join(clear)}."


def budget(axes: "Axes", found: Exhaustion) -> str:
    """ε over jobs: charged on chain until the ledger refuses, and added up, against the budget. Returns alternative
    text."""
    jobs = list(range(1, found.admitted + 1))
    axes.axhline(found.epsilon, color="#1a1f26", linewidth=1.2)
    axes.text(0.02, found.epsilon * 1.02, f"budget ε = {found.epsilon:g}", fontsize=9, transform=_across(axes))
    axes.plot(jobs, found.on_chain, "o-", markersize=4, color=BLUE, label="Rényi curve on chain")
    shown = [(job, value) for job, value in zip(jobs, found.added_up, strict=True) if value <= 1.5 * found.epsilon]
    axes.plot(*zip(*shown, strict=True), "s--", markersize=4, color=ORANGE, label="each job's ε, added up")
    for last, value, colour in (
        (found.admitted, found.on_chain[-1], BLUE),
        (found.admitted_naively, found.added_up[found.admitted_naively - 1], ORANGE),
    ):
        axes.axvline(last, ymax=0.12, color=colour, linewidth=1)
        axes.annotate(f"{last} jobs", (last, 0), (4, 6), textcoords="offset points", fontsize=9, color=colour)
        axes.plot([last], [value], "o", markersize=9, markerfacecolor="none", color=colour)
    axes.set_xlim(0, found.admitted * 1.12 + 1)
    axes.set_ylim(0, 1.5 * found.epsilon)
    axes.set_xlabel("equal jobs on one dataset, whoever asks")
    axes.set_ylabel(f"ε at δ = {found.delta:g}")
    axes.legend(loc="upper right", fontsize=9)
    return (
        f"Epsilon against jobs, under a line at the budget of {found.epsilon:g}. The contract admits {found.admitted} "
        f"jobs and then refuses; adding up each job's epsilon reaches the budget after {found.admitted_naively}."
    )


def payments(axes: "Sequence[Axes]", images: Mapping[str, int], price: int, owed: Mapping[str, int]) -> str:
    """Two axes: each hospital's images; what it earned, price and appraised share of the bonus. Returns alternative
    text."""
    names = list(images)
    bonus = [(owed[name] - price) / ETHER for name in names]
    axes[0].barh(names, list(images.values()), 0.6, color=SKY)
    axes[0].set_xlabel("images")
    axes[1].barh(names, [price / ETHER] * len(names), 0.6, color=GREY, label="its price")
    axes[1].barh(names, bonus, 0.6, left=price / ETHER, color=GREEN, label="share of the bonus")
    for y, share in enumerate(bonus):
        axes[1].text(price / ETHER + share, y, f" {share / sum(bonus):.0%}", va="center", fontsize=9)
    axes[1].set_xlabel("earned (ETH of the embedded chain)")
    axes[1].margins(x=0.12)
    axes[0].invert_yaxis()
    for axis in axes:
        axis.grid(visible=False, axis="y")
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, fontsize=9)
    shares = ", ".join(
        f"{name} {count:,} images, {share / sum(bonus):.0%} of the bonus"
        for (name, count), share in zip(images.items(), bonus, strict=True)
    )
    return f"Bars of images and of earnings by hospital: {shares}."


def gas(axes: "Axes", actions: Mapping[str, Sequence[Use]]) -> str:
    """Gas of one transaction of each kind (the dearest seen), coloured by who sends it. Returns alternative text."""
    colours = dict(zip(dict.fromkeys(SENDERS.values()), (GREEN, ORANGE, BLUE, PURPLE, GREY), strict=True))
    most = {name: max(use.gas for use in actions[name]) for name in SENDERS if name in actions}
    for y, (name, used) in enumerate(most.items()):
        axes.barh(y, used, 0.7, color=colours[SENDERS[name]])
        axes.text(used, y, f" {used:,}", va="center", fontsize=9)
    for sender, colour in colours.items():
        axes.barh([0], [0], color=colour, label=sender)
    axes.set_yticks(range(len(most)), [name.replace(".", ": ").replace("_", " ") for name in most])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("gas of one transaction")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=9)
    shown = ", ".join(f"{name.replace('.', ' ').replace('_', ' ')} {used:,}" for name, used in most.items())
    return f"Bars of the gas of one transaction: {shown}."


def once_a_hospital(actions: Mapping[str, Sequence[Use]]) -> list[Use]:
    """What one hospital sends once, for its upload."""
    return [actions[name][0] for name, who in SENDERS.items() if who == "hospital, once"]


def listing_rows(story: Story) -> list[dict[str, str]]:
    """What each hospital offers as rows of a table."""
    return [
        {
            "hospital": name,
            "images": f"{listing.rows:,}",
            "price": f"{listing.price / ETHER:g} ETH",
            "ciphertext (SHA-256)": f"{listing.digest[:12]}…",
            "policy (SHA-256 of its bytecode)": f"{listing.policy_hash[:12]}…",
        }
        for name, listing in ((name, hospital.listing) for name, hospital in story.hospitals.items())
    ]


def ledger_rows(moments: Sequence[Moment]) -> list[dict[str, str]]:
    """The ledger after each step as rows of a table."""

    def ether(wei: int) -> str:
        return f"{wei / ETHER:.3f}".rstrip("0").rstrip(".")

    return [
        {
            "after step": moment.after,
            "block": f"{moment.block}",
            "job": moment.job,
            "locked (ETH)": ether(moment.locked),
            **{f"{name}: ε spent": f"{spent:.2f}" for name, spent in moment.spent.items()},
            **{f"owed to {name}": ether(owed) for name, owed in moment.owed.items()},
        }
        for moment in moments
    ]


def _across(axes: "Axes") -> object:
    """x as a fraction of the axes, y as data."""
    return axes.get_yaxis_transform()
