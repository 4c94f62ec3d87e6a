"""Rules of norms, clipping and sums: which per-example vectors a factor bounds, and which a sum weighs.

clip(s₁ … sₙ, mask)  sᵢ = ‖contribution i‖²: factors f with Σᵢ ‖f · contribution i‖² ≤ bound²   (flat, normalize)
sum of f · c         has, over one example, at most f · ‖c‖; all sums under one clip together at most the bound,
                     where every c is among its contributions
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from privlib.sterling.verify.kinds import (
    Contribution,
    Factors,
    Gradients,
    Kind,
    Mask,
    Part,
    PerExample,
    Private,
    Public,
    Refusal,
    Squares,
    Sum,
    Value,
    worst,
)
from privlib.sterling.verify.verdict import Reason

Attributes = Mapping[str, Any]
OPERATORS = frozenset(
    ["weight_norm", "weight_norm_kept", "row_squares", "clip", "repeat", "weight_sum", "factor_sum", "kept_sum"]
)


def _weight_contribution(args: Sequence[Value], a: Attributes, operation: str) -> Contribution:
    x, g = args[:2]
    same = x.shape[:1] == g.shape[:1] and len(x.shape) >= 2 and len(g.shape) >= 2
    if not same or ("kernel" not in a and x.shape[:-1] != g.shape[:-1]):
        raise Refusal(Reason.MALFORMED, operation, f"input {x.shape} and output gradient {g.shape} do not fit")
    geometry: tuple[Any, ...] = ()
    if "kernel" in a:
        window = (tuple(int(v) for v in a[key]) for key in ("kernel", "stride", "padding", "dilation"))
        geometry = (*window, int(a["groups"]), bool(a["nchw"]))
    return ("weight", x.number, g.number, geometry)


def _measures_examples(args: Sequence[Value], a: Attributes, examples: int) -> bool:
    """Whether a weight_norm gives, example by example, the exact norm (or more)."""
    rows, views = args[0].shape[0], int(a["views"])
    if rows != examples * views or ("kernel" not in a and views != 1):
        return False
    strategy = str(a["strategy"])
    if strategy == "goodfellow":
        places = [math.prod(value.shape[1:-1]) for value in args]
        return views == 1 and places == [1, 1] and ("kernel" not in a or _pointwise(a))
    return strategy in ("gram", "instantiate", "auto")


def _pointwise(a: Attributes) -> bool:
    return [int(v) for v in a["kernel"]] == [1, 1] and int(a["groups"]) == 1


def norms(name: str, args: Sequence[Value], a: Attributes, examples: int, operation: str) -> tuple[Kind, ...]:
    """weight_norm, weight_norm_kept and row_squares; a kind for each result."""
    results = 2 if name == "weight_norm_kept" else 1
    blamed = worst(tuple(args), operation)
    if blamed:
        return (blamed,) * results
    if name == "row_squares":
        value = args[0]
        site = value.kind.site if isinstance(value.kind, Gradients) else ("rows", value.number)
        whole = bool(value.shape) and value.shape[0] == examples
        return (Squares(operation, frozenset({site})) if whole else PerExample(operation),)
    site = _weight_contribution(args, a, operation)
    if not _measures_examples(args, a, examples):
        return (PerExample(operation),) * results
    squares = Squares(operation, frozenset({site}))
    return (squares, Gradients(operation, site))[:results]


def clip(args: Sequence[Value], a: Attributes, examples: int, number: int, operation: str) -> tuple[Kind, Kind]:
    """(total squared norms, factors); `number` tells this clip from others."""
    *squares, mask = args
    blamed = worst(tuple(args), operation)
    if blamed:
        return blamed, blamed
    kind, bound = str(a["clipping"]), float(a["bound"])
    if any(value.shape != (examples,) for value in args) or not squares:
        wrong = Private(Reason.WRONG_NORM, operation, f"what it clips by is not one number for each of {examples}")
        return wrong, wrong
    if kind not in ("flat", "normalize"):
        wrong = Private(Reason.NOT_CLIPPED, operation, f"clipping {kind!r} bounds nothing")
        return wrong, wrong
    if not 0 < bound < math.inf:
        wrong = Private(Reason.NOT_CLIPPED, operation, f"a bound of {bound} bounds nothing")
        return wrong, wrong
    for value in squares:
        if not isinstance(value.kind, Squares):
            made = value.kind.operation if isinstance(value.kind, PerExample) else "a public value"
            message = f"it takes for a squared norm what is none: {made}"
            wrong = Private(Reason.WRONG_NORM, operation, message)
            return wrong, wrong
    if not isinstance(mask.kind, Mask):
        wrong = Private(Reason.MASK, operation, "its last argument is not the mask of the batch")
        return wrong, wrong
    sites = frozenset(site for value in squares for site in value.kind.sites)  # type: ignore[attr-defined]
    total = Squares(operation, sites)
    return total, Factors(operation, sites, bound, number)


def repeat(value: Value, a: Attributes, operation: str) -> Kind:
    """Every row `views` times: factors of examples become factors of their views."""
    blamed = worst((value,), operation)
    views = int(a["views"])
    if blamed:
        return blamed
    if isinstance(value.kind, Factors) and views >= 1:
        return Factors(operation, value.kind.sites, value.kind.bound, value.kind.clip, value.kind.repeated * views)
    if isinstance(value.kind, Mask) and views >= 1:
        return Mask(operation, value.kind.repeated * views)
    return value.kind if isinstance(value.kind, Public) else PerExample(operation)


def weighted_sum(name: str, args: Sequence[Value], a: Attributes, examples: int, operation: str) -> Kind:
    """weight_sum(x, g, f), factor_sum(v, f), kept_sum(gradients, f)."""
    *operands, factors = args
    blamed = worst(tuple(args), operation)
    if blamed:
        return blamed
    rows = operands[0].shape[0] if operands[0].shape else 0
    if factors.shape != (rows,) or rows % examples:
        message = f"{rows} rows are weighted by factors of shape {factors.shape}"
        raise Refusal(Reason.MALFORMED, operation, message)
    if name == "weight_sum":
        site = _weight_contribution(operands, a, operation)
    elif name == "factor_sum":
        site = ("rows", operands[0].number)
    else:
        kept = operands[0].kind
        site = kept.site if isinstance(kept, Gradients) else None
    kind = factors.kind
    if not isinstance(kind, Factors):
        what = "the mask alone" if isinstance(kind, Mask) else "something that is no clip factor"
        return Private(Reason.NOT_CLIPPED, operation, f"it weighs the examples by {what}")
    if rows != examples * kind.repeated or (name != "weight_sum" and kind.repeated != 1):
        raise Refusal(Reason.MALFORMED, operation, f"its {rows} rows are not {examples} examples' repeated factors")
    if site not in kind.sites:
        message = f"the norm behind its factors leaves it out ({kind.operation})"
        return Private(Reason.NOT_CLIPPED, operation, message)
    return Sum(operation, (Part(site, kind.clip, kind.bound, kind.operation, operation),))


def added_squares(args: Sequence[Value], operation: str) -> Kind | None:
    """The sum of squared norms is the squared norm of all of them together."""
    kinds = [value.kind for value in args]
    if len({value.shape for value in args}) == 1 and all(isinstance(kind, Squares) for kind in kinds):
        return Squares(operation, frozenset(site for kind in kinds for site in kind.sites))  # type: ignore[attr-defined]
    return None
