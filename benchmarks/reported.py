"""What stands in the CIFAR-10 table without being measured there: what an epoch costs in ε and hours, and the figures
that the talk, Chiron and Slalom report of their own machines."""

from collections.abc import Mapping, Sequence

from benchmarks.cases import MAX_GRAD_NORM, NOISE_MULTIPLIER
from privlib.suite import record, report
from privlib.suite.stats import median

EXAMPLES, BATCH, DELTA = 50_000, 64, 1e-5
ROWS_PER_EXAMPLE = 2  # inside: two batches of 64 hold every sample but one in 10¹⁰, which the bound accounts for
RESNET_EPOCHS = 164  # He et al. 2016, section 4.2: 64,000 iterations of batches of 128
TALK_HOURS = 12  # "½ day"
_TALK = "resnet32/myelin_private/training_throughput"


def epoch(row: str, throughput: Mapping[str, Sequence[float]]) -> None:
    """Record ε of one epoch (σ = 1, C = 1, Poisson samples at 64/50,000, δ = 1e-5): the tight value, and the bound
    that an enclave claims; of ResNet-32 the hours that whole runs take at each peer's measured speed."""
    from privlib.privacy import Accountant
    from privlib.trusted.renyi import epsilon
    from privlib.trusted.sampling import PoissonSampler

    steps, rate = round(EXAMPLES / BATCH), BATCH / EXAMPLES
    found = Accountant().compose(NOISE_MULTIPLIER, rate, steps)
    inside = PoissonSampler(EXAMPLES, rate, BATCH, ROWS_PER_EXAMPLE).event(NOISE_MULTIPLIER, steps)
    claim = epsilon([inside], DELTA)
    for name, value, accountant in (
        ("privlib_private", float(found.epsilon(DELTA)), "PLD"),
        ("privlib_private_enclave", claim, "RDP, as certified inside"),
    ):
        record.metric(f"{row}/{name}/epsilon_per_epoch", value, "", nature="deterministic", higher_is_better=False)
        record.privacy(
            epsilon=value, delta=DELTA, accountant=accountant, neighbouring_relation="add or remove one",
            sampling="Poisson", noise_multiplier=NOISE_MULTIPLIER, max_grad_norm=MAX_GRAD_NORM, steps=steps,
            subject=f"{row}/{name}",
        )  # fmt: skip
    if row != "resnet32":
        return
    hours(row, throughput)


def hours(row: str, throughput: Mapping[str, Sequence[float]]) -> None:
    """Record how long whole runs take at each peer's measured speed."""
    half_day = TALK_HOURS * 3600 * _talk()
    runs = {"hours_of_164_epochs": RESNET_EPOCHS * EXAMPLES, "hours_of_the_half_day": half_day}
    for quantity, images in runs.items():
        for name, rates in throughput.items():
            rows = ROWS_PER_EXAMPLE if name.endswith("_enclave") else 1
            record.metric(
                f"{row}/{name}/{quantity}", rows * images / median(rates) / 3600, "h",
                kind="modelled", nature="timing", higher_is_better=False,
            )  # fmt: skip
    record.note(
        f"{row}: hours are derived from the speed measured. 164 epochs are He et al.'s 64,000 iterations of 128; the "
        f"talk's half day at its own speed holds {half_day / EXAMPLES:.1f} epochs. Inside, every update runs "
        f"{ROWS_PER_EXAMPLE} batches of {BATCH} rows for the {BATCH} examples that it draws on average, so that the "
        "host does not see how many there were, and the hours count them all"
    )


def others(rows: Sequence[str]) -> None:
    """Record the figures of others for `rows`, with their sources."""
    for number in report.reported_numbers():
        row, rest = number["name"].split("/", 1)
        for own in rows:
            if own.startswith(row):
                record.metric(
                    f"{own}/{rest}", number["value"], number["unit"],
                    kind="reported", nature="timing", higher_is_better=True, source=number["source"],
                )  # fmt: skip


def _talk() -> float:
    value: float = next(each["value"] for each in report.reported_numbers() if each["name"] == _TALK)
    return value
