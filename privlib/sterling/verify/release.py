"""Rules of the update: what may be done to clipped sums, how noise makes them public, and what that is worth."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privlib.sterling.verify.kinds import Key, Kind, Part, Private, Public, Refusal, Sum, Value
from privlib.sterling.verify.verdict import ProgramPolicy, Reason

_UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # half a unit in the last place of 1


@dataclass(frozen=True)
class Release:
    """A sum that noise was added to; the same sum under the same noise is one release, however often it is written."""

    operation: str = field(compare=False)
    total: Sum = field(compare=False)
    number: int
    shape: tuple[int, ...]
    noise_multiplier: float
    max_grad_norm: float
    grid_step: float
    stream: Hashable

    @property
    def sigma(self) -> float:
        return self.noise_multiplier * self.max_grad_norm


def linear(name: str, args: Sequence[Value], operation: str) -> Kind | None:
    """A Sum rearranged, scaled by a number or joined to others; None for anything else.

    Nothing public is added to it: `accumulate` runs once a physical batch, so that would count the batches.
    """
    sums = [value for value in args if isinstance(value.kind, Sum)]
    others = [value for value in args if not isinstance(value.kind, Sum)]
    if not sums:
        return None
    first = sums[0].kind
    assert isinstance(first, Sum)
    if name in ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.permute_dims"):
        return Sum(operation, first.parts)
    if name == "relax.concat" and not others:
        return Sum(operation, tuple(part for value in sums for part in value.kind.parts))  # type: ignore[attr-defined]
    if name in ("relax.multiply", "relax.divide") and len(args) == 2 and len(sums) == 1:
        factor, divided = others[0].constant, name == "relax.divide"
        if factor is None or not math.isfinite(factor) or (divided and (factor == 0 or args[0] is not sums[0])):
            return None
        return Sum(operation, first.scaled(1 / factor if divided else factor).parts)
    return None


def noisy(args: Sequence[Value], a: Mapping[str, Any], releases: list[Release], operation: str) -> Kind:
    """add_gaussian: public from here on, if the noise is what it says; what it is worth is decided by `weigh`."""
    value, key = args
    if isinstance(value.kind, Private):
        return value.kind
    if not isinstance(key.kind, Key):
        return Private(Reason.NOISE_SEEDED, operation, "its key is not the update's key argument")
    if isinstance(value.kind, Public):
        return value.kind
    if not isinstance(value.kind, Sum):
        return Private(Reason.NOT_CLIPPED, operation, "noise is added to something that is no clipped sum")
    multiplier, norm, step = (float(a[key]) for key in ("noise_multiplier", "max_grad_norm", "grid_step"))
    release = Release(operation, value.kind, value.number, value.shape, multiplier, norm, step, int(a["stream"]))
    if release not in releases:
        for other in releases:
            if other.stream == release.stream:
                message = f"its stream {release.stream} of the key is used before ({other.operation})"
                return Private(Reason.NOISE_REUSED, operation, message)
        releases.append(release)
    return Public()


def sensitivity(parts: Sequence[tuple[Part, float]]) -> float:
    """L2, adding or removing one example, of all parts together, each times a weight.

    Under one clip Σ_c ‖f · c‖² ≤ bound² over its distinct contributions c, so

        √( Σ over clips of bound² · max over contributions of Σ over the parts with it of (scale · weight)² )
    """
    squares: dict[int, dict[Hashable, float]] = defaultdict(lambda: defaultdict(float))
    bounds: dict[int, float] = {}
    for part, weight in parts:
        squares[part.clip][part.contribution] += (part.scale * weight) ** 2
        bounds[part.clip] = part.bound
    return math.sqrt(sum(bounds[clip] ** 2 * max(each.values()) for clip, each in squares.items()))


@dataclass(frozen=True)
class Weight:
    """The releases of one update together: sensitivity, smallest sigma, and 1 / (sensitivity in units of sigma)."""

    sensitivity: float
    sigma: float
    noise_multiplier: float


def weigh(releases: Sequence[Release], policy: ProgramPolicy, examples: int, dtype: str) -> Weight:
    """Raises Refusal where the sums can move further than is declared, or the noise is too small or off the grid.

    m additions move a floating-point sum by at most m·u of what was added, at most m·bound, on each of two neighbouring
    datasets, and a norm's root is right to 2048·u; so the bound must lie below the declared norm by the factor
    1 + (2·m² + 2048)·u, for m examples in a physical batch and u half a unit in the last place. What a strategy's
    arithmetic loses beyond that is the trusted compiler's to provide for.
    """
    room = 1 + (2 * examples**2 + 2048) * _UNIT[dtype]
    parts = [(part, 1.0) for release in releases for part in release.total.parts]
    exact = sensitivity(parts)
    for release in releases:
        if not 0 < release.grid_step <= release.max_grad_norm < math.inf:
            raise Refusal(Reason.NOISE_GRID, release.operation, f"its grid's step is {release.grid_step}")
        if not (math.isfinite(release.noise_multiplier) and release.noise_multiplier >= policy.noise_multiplier):
            message = f"noise multiplier {release.noise_multiplier:g}; the policy asks {policy.noise_multiplier:g}"
            raise Refusal(Reason.NOISE_TOO_SMALL, release.operation, message)
        if not exact * room <= release.max_grad_norm * (1 + 1e-12):
            clips = {part.clipped_by: part.bound for part, _ in parts}
            how = "; ".join(f"{bound:.6g} by {clip}" for clip, bound in clips.items())
            message = (
                f"all sums together move by up to {exact:.6g} (times {room:.6g} for rounding), the noise is made for "
                f"{release.max_grad_norm:g}; clipped to {how}"
            )
            raise Refusal(Reason.SENSITIVITY, release.operation, message)
    rounding = policy.physical_batches * math.sqrt(
        sum(math.prod(release.shape) * (release.grid_step / release.sigma) ** 2 for release in releases)
    )
    in_sigmas = sensitivity([(part, room / release.sigma) for release in releases for part in release.total.parts])
    sigma = min(release.sigma for release in releases)
    return Weight((in_sigmas + rounding) * sigma, sigma, 1 / (in_sigmas + rounding))
