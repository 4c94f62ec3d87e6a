"""From a compiled step to the noise multiplier that the accountant must be given (`privlib.privacy.proof` says why)."""

from privlib.compiler.kernels.gram import UNIT
from privlib.compiler.kernels.noise import NoiseGrid
from privlib.privacy.errors import AccountingError
from privlib.trusted.training import TrainingStep

DIFFERING_BATCHES = 2  # physical batches in which draws of neighbouring datasets can be made to differ


def effective_noise_multiplier(step: TrainingStep) -> float:
    """σ / sensitivity of a private step, rounding included; below its nominal noise_multiplier.

    sensitivity = C · (1 + 2·m²·u) + 2 · √d · grid step, for m examples in a physical batch, u half a unit in the last
    place, d trainable coordinates. The step clips to C / (1 + η) with an η that pays for the rounding in one of the two
    physical batches that may differ; the second is paid here. Samples must come from privlib's samplers, whose random
    order bounds the differing batches to two. 0 for a step compiled with noise_multiplier=0. Raises AccountingError for
    a plain one.
    """
    if step.privacy is None:
        raise AccountingError("a plain step has no noise; compile it with privacy=DPSGD(…)")
    facts = step.privacy
    if facts["noise_multiplier"] == 0:
        return 0.0
    grid = NoiseGrid.of(facts["noise_multiplier"], facts["max_grad_norm"])
    coordinates = step.coordinates
    nominal = grid.effective_noise_multiplier(coordinates, DIFFERING_BATCHES)
    sensitivity = grid.sensitivity(coordinates, DIFFERING_BATCHES)
    second_batch = 2 * step.batch_size**2 * UNIT[step.dtype] * facts["max_grad_norm"]
    return nominal * sensitivity / (sensitivity + second_batch)
