"""From a compiled step to the noise multiplier that an accountant must be given (`privlib.privacy.proof` says why)."""

import math

from privlib.trusted.training import TrainingStep

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # half a unit in the last place of 1
DIFFERING_BATCHES = 2  # physical batches in which draws of neighbouring datasets can be made to differ


def effective_noise_multiplier(step: TrainingStep) -> float:
    """σ / sensitivity of a step, rounding included; below its nominal noise_multiplier, 0 where there is no noise.

    sensitivity = C · (1 + 2·m²·u) + 2 · √d · grid step, for m examples in a physical batch, u half a unit in the last
    place, d trainable coordinates. The step clips to C / (1 + η) with an η that pays for the rounding in one of the two
    physical batches that may differ; the second is paid here. Samples must come from `privlib.trusted.sampling`, whose
    random order bounds the differing batches to two.
    """
    facts = step.privacy
    if facts is None or facts["noise_multiplier"] == 0:
        return 0.0
    bound, batch = float(facts["max_grad_norm"]), step.batch_size
    rounding = DIFFERING_BATCHES * math.sqrt(step.coordinates) * float(facts["grid_step"])
    second_batch = 2 * batch**2 * UNIT[step.dtype] * bound
    return float(facts["noise_multiplier"]) * bound / (bound + rounding + second_batch)
