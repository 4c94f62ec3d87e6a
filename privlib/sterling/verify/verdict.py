"""What the check of a program is asked, and what it answers."""

import math
from dataclasses import dataclass
from enum import Enum

from privlib.sterling.errors import PolicyError


class Reason(Enum):
    """Why a program is refused."""

    LEAK = "a value of single examples leaves the program"
    MIXED = "a value computed across examples leaves the program without clipping"
    BRANCH = "control flow depends on private data"
    NOT_CLIPPED = "values of single examples are summed without being clipped"
    WRONG_NORM = "what scales the examples is not the norm of what is summed"
    MASK = "the clip factors ignore the mask, so rows that belong to nobody count"
    SENSITIVITY = "one example can move the released sums further than the noise is made for"
    NO_NOISE = "a clipped sum leaves the program without noise"
    NOISE_TOO_SMALL = "the noise is smaller than the policy asks"
    NOISE_SEEDED = "the noise does not come from the key that is fresh at every update"
    NOISE_REUSED = "the same noise is added twice"
    NOISE_GRID = "the noise is not on an integer grid, so floating-point values betray what is beneath it"
    BUDGET = "the whole job costs more privacy than the policy allows"
    UNKNOWN = "an operator is used for which there is no rule"
    MALFORMED = "the program does not have the form that is checked"


@dataclass(frozen=True)
class ProgramPolicy:
    """What a data provider allows a training program.

    noise_multiplier: least ratio of the noise's standard deviation to the declared clipping norm. epsilon, delta: most
    that all `steps` updates may cost together, where each update draws each example with probability sample_rate
    (Poisson). physical_batches: most batches that are summed up for one update; each is rounded to the noise's grid.
    The neighbouring relation is adding or removing one example.

    Raises PolicyError for numbers out of range.
    """

    noise_multiplier: float
    epsilon: float
    delta: float
    sample_rate: float
    steps: int
    physical_batches: int = 64

    def __post_init__(self) -> None:
        if not (0 < self.noise_multiplier < math.inf and 0 < self.epsilon < math.inf):
            raise PolicyError("noise_multiplier and epsilon must be positive and finite")
        if not (0 < self.delta < 1 and 0 < self.sample_rate <= 1):
            raise PolicyError("delta lies between 0 and 1, sample_rate above 0 and at most at 1")
        if self.steps < 1 or self.physical_batches < 1:
            raise PolicyError("steps and physical_batches are whole numbers from 1 on")


@dataclass(frozen=True)
class Verdict:
    """The answer. Where the program is refused: `reason`, the offending `operation` and what is wrong with it.

    Where it is accepted: what is released, the L2 `sensitivity` of all sums of an update together (rounding to the
    noise's grid included), `sigma`, the noise's standard deviation on the sums (the smallest, where they differ),
    `noise_multiplier` = what counts for the accountant, and the cost: ε at the policy's δ of one update and of all.
    """

    accepted: bool
    message: str
    reason: Reason | None = None
    operation: str = ""
    released: tuple[str, ...] = ()
    sensitivity: float = 0.0
    sigma: float = 0.0
    noise_multiplier: float = 0.0
    step_epsilon: float = 0.0
    total_epsilon: float = 0.0
    delta: float = 0.0
    steps: int = 0

    def __str__(self) -> str:
        if self.reason is not None:
            return f"refused: {self.reason.value}\n  operation: {self.operation}\n  {self.message}"
        return "\n".join(
            [
                f"accepted: {self.message}",
                f"  released after every update: {', '.join(self.released)}",
                f"  sensitivity {self.sensitivity:.6g} (L2, add or remove one example), sigma {self.sigma:.6g}, "
                f"noise multiplier {self.noise_multiplier:.6g}",
                f"  privacy cost at delta {self.delta:g}: one update epsilon {self.step_epsilon:.4g}, "
                f"{self.steps} updates epsilon {self.total_epsilon:.4g}",
            ]
        )
