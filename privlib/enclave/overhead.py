"""What being inside costs: the same artifact, the same work, in an enclave and in this process, taking turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from privlib.enclave.session import Session
from privlib.trusted import CompiledModel, TrainingStep
from privlib.trusted.epoch import TrainRequest, run_epoch
from privlib.trusted.examples import Examples

_REST_SECONDS = 0.05  # until the other process's threads have stopped spinning


@dataclass(frozen=True)
class Overhead:
    """Images per second of each repetition, inside and outside; both took turns."""

    inside: tuple[float, ...]
    outside: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of inside ÷ outside over the pairs of neighbouring repetitions."""
        return statistics.median(a / b for a, b in zip(self.inside, self.outside, strict=True))


def inference_overhead(
    session: Session, outside: CompiledModel, images: np.ndarray, repetitions: int = 5, runs: int = 10
) -> Overhead:
    """images float32 (B, *input_shape), sent and answered in every run; `runs` of them make a repetition."""

    def inside_runs() -> None:
        for _ in range(runs):
            session.infer(images)

    def outside_runs() -> None:
        for _ in range(runs):
            outside.run(images)

    return _take_turns(inside_runs, outside_runs, repetitions, runs * len(images))


def training_overhead(
    session: Session,
    outside: TrainingStep,
    images: np.ndarray,
    labels: np.ndarray,
    request: TrainRequest,
    repetitions: int = 5,
) -> Overhead:
    """Epochs by `request` on the same examples, which it names and which were provisioned inside beforehand; inside,
    charging and the certificate are included. Images are counted as run: every update runs `request.physical_batches`
    whole batches."""
    examples = Examples([(images, labels)])
    count = request.steps * request.physical_batches * outside.batch_size

    def inside_epoch() -> None:
        session.train(request)

    def outside_epoch() -> None:
        run_epoch(outside, examples, request)

    return _take_turns(inside_epoch, outside_epoch, repetitions, count)


def _take_turns(inside: Callable[[], None], outside: Callable[[], None], repetitions: int, images: int) -> Overhead:
    inside()
    outside()
    found: dict[Callable[[], None], list[float]] = {inside: [], outside: []}
    for number in range(repetitions):
        for work in (inside, outside) if number % 2 else (outside, inside):
            time.sleep(_REST_SECONDS)
            started = time.perf_counter()
            work()
            found[work].append(images / (time.perf_counter() - started))
    return Overhead(tuple(found[inside]), tuple(found[outside]))
