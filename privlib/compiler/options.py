"""What a training step does: the optimizer, and the privacy it gives."""

from dataclasses import dataclass

from privlib.compiler.errors import CompileError


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as torch.optim.SGD defines it.

    learning_rate may be changed at every update; the others are compiled in.
    """

    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        numbers = {"learning_rate": self.learning_rate, "momentum": self.momentum, "weight_decay": self.weight_decay}
        for name, value in numbers.items():
            if not 0 <= value < float("inf"):
                raise CompileError(f"{name} must be finite and not negative, got {value}")
        if self.nesterov and not self.momentum:
            raise CompileError("Nesterov's step needs a momentum above zero")


@dataclass(frozen=True)
class DPSGD:
    """Differentially private SGD (Abadi et al. 2016, arXiv 1607.00133): clip each example's gradient, sum, add noise.

    noise_multiplier: the noise's standard deviation on the sum is noise_multiplier · max_grad_norm (0: clipping alone,
    no privacy). max_grad_norm: no example contributes more (L2, one norm over all parameters). expected_batch_size: a
    public constant, the divisor of the average. clipping: "flat" scales a gradient down to max_grad_norm where it is
    longer, "normalize" scales each to it; one
    shorter than 1e-12 counts as zero, which stays zero. augmentations: that many views make one example, averaged
    before the norm (De et al. 2022, arXiv 2204.13650).
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: float
    clipping: str = "flat"
    augmentations: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < float("inf"):
            raise CompileError(f"noise_multiplier must be finite and not negative, got {self.noise_multiplier}")
        for name in ("max_grad_norm", "expected_batch_size"):
            if not 0 < getattr(self, name) < float("inf"):
                raise CompileError(f"{name} must be finite and positive, got {getattr(self, name)}")
        if self.clipping not in ("flat", "normalize"):
            raise CompileError(f"clipping is 'flat' or 'normalize', got {self.clipping!r}")
        if self.augmentations < 1 or int(self.augmentations) != self.augmentations:
            raise CompileError(f"augmentations is a whole number from 1 on, got {self.augmentations}")
