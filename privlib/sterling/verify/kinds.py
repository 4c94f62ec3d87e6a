"""What the checker knows of a value: whom it depends on, and what a sum over examples may weigh.

E is the number of examples of a physical batch. A value is per example when its memory is E equal blocks, one after the
other, and block e depends on example e alone (and on what is public).

    Public      known, or released under noise already: anything may be done with it
    PerExample  as above, nothing more is known
    Mask        per example, 1 for an example and 0 for a row of padding; each repeated
    Squares     per example, the squared L2 norm of the contributions in `sites` together
    Gradients   per example, the contribution itself
    Factors     per example, f ≥ 0 with Σ over the sites ‖f · contribution‖² ≤ bound², and 0 for rows of padding
    Sum         a linear arrangement of clipped sums Σ_e f_e · contribution_e
    Key         the noise's key
    Private     depends on private data in a way that must not leave; carries the first operation to blame

A contribution is a per-example vector, written down as the formula that gives it: ("weight", x, g, geometry) the
gradient of a convolution's or a linear layer's weight by its input x and output gradient g, ("rows", v) a row of v.
Nothing needs to be a gradient: privacy asks only that what is summed is what was measured. Two values are the same when
the same operators were applied to the same values (value numbering), however they are named or ordered.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace

from privlib.sterling.verify.verdict import Reason

Contribution = Hashable


class Refusal(Exception):
    """Ends the check at once."""

    def __init__(self, reason: Reason, operation: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.operation, self.message = reason, operation, message


@dataclass(frozen=True)
class Kind:
    """Base of all kinds."""


@dataclass(frozen=True)
class Public(Kind):
    pass


@dataclass(frozen=True)
class PerExample(Kind):
    operation: str


@dataclass(frozen=True)
class Mask(PerExample):
    repeated: int = 1


@dataclass(frozen=True)
class Squares(PerExample):
    sites: frozenset[Contribution] = frozenset()


@dataclass(frozen=True)
class Gradients(PerExample):
    site: Contribution = None


@dataclass(frozen=True)
class Factors(PerExample):
    sites: frozenset[Contribution] = frozenset()
    bound: float = 0.0
    clip: int = 0
    repeated: int = 1


@dataclass(frozen=True)
class Part:
    """scale · Σ_e f_e · contribution_e, where f are the factors of the clip with number `clip`."""

    contribution: Contribution
    clip: int
    bound: float
    clipped_by: str
    summed_by: str
    scale: float = 1.0


@dataclass(frozen=True)
class Sum(Kind):
    operation: str
    parts: tuple[Part, ...]

    def scaled(self, factor: float) -> "Sum":
        return replace(self, parts=tuple(replace(part, scale=part.scale * factor) for part in self.parts))


@dataclass(frozen=True)
class Key(Kind):
    pass


@dataclass(frozen=True)
class Private(Kind):
    reason: Reason
    operation: str
    message: str


@dataclass(frozen=True)
class Value:
    """A tensor. number: equal for equal values. constant: its value, where it is a scalar written in the program."""

    kind: Kind
    number: int
    shape: tuple[int, ...]
    dtype: str
    constant: float | None = None


@dataclass(frozen=True)
class Fields:
    """A tuple."""

    values: tuple["Value | Fields", ...]


def worst(values: "tuple[Value, ...] | list[Value]", operation: str) -> Private | None:
    """What a value computed from `values` is to blame for, if one of them must not be computed with freely."""
    for value in values:
        if isinstance(value.kind, Private):
            return value.kind
    for value in values:
        if isinstance(value.kind, Key):
            return Private(Reason.NOISE_SEEDED, operation, "the noise's key is used for something else than noise")
        if isinstance(value.kind, Sum):
            summed = value.kind.parts[0].summed_by
            return Private(Reason.NO_NOISE, operation, f"it reads a sum before noise was added ({summed})")
    return None
