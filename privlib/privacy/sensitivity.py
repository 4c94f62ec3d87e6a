"""The noise multiplier of a compiled step, as users ask for it."""

from privlib.privacy.errors import AccountingError
from privlib.trusted import sensitivity
from privlib.trusted.training import TrainingStep


def effective_noise_multiplier(step: TrainingStep) -> float:
    """As `privlib.trusted.sensitivity.effective_noise_multiplier`; AccountingError for a plain step."""
    if step.privacy is None:
        raise AccountingError("a plain step has no noise; compile it with privacy=DPSGD(…)")
    return sensitivity.effective_noise_multiplier(step)
