"""Cases of training: weights, a batch of CIFAR-10 and its labels, and the gradients that every peer must agree with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import MAX_GRAD_NORM, Case, ModelName
from privlib.suite import record

if TYPE_CHECKING:
    import torch

SEED = 20180


def make_case(
    folder: Path, row: str, model_name: ModelName, batch_size: int, *, double: bool = True, batches: int = 1
) -> Case:
    """Lay down weights, the first images of CIFAR-10's training set, normalised, their labels, and the references, in
    float64 or, where `double` would take minutes, in float32."""
    import torch

    from privlib import data, models

    record.seed("weights", SEED)
    case = Case(folder, row, model_name, 10, 32, batch_size, batches)
    cifar = data.load_cifar10("train")
    record.dataset(cifar)
    torch.manual_seed(SEED)
    torch.save(models.build(model_name).state_dict(), folder / "weights.pt")
    np.save(folder / "input.npy", data.preprocess(np.array(cifar.images[:batch_size])))
    np.save(folder / "labels.npy", cifar.labels[:batch_size].astype(np.int64))
    case.save()
    for name, gradient in references(case, torch.float64 if double else torch.float32).items():
        np.savez(folder / f"output-reference_{name}.npz", **gradient)
    return case


def references(case: Case, dtype: "torch.dtype") -> dict[str, dict[str, Any]]:
    """By a loop over the examples: `plain` the averaged gradient, `private` the sum of the clipped gradients."""
    import torch

    model = case.model().train().to(dtype)
    parameters = dict(model.named_parameters())
    plain, private = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    for gradient in _per_example(model, case, dtype):
        norm = sum(float(each.square().sum()) for each in gradient) ** 0.5
        for name, each in zip(parameters, gradient, strict=True):
            plain[name] += each / case.batch_size
            private[name] += each * min(1.0, MAX_GRAD_NORM / norm)
    both = {"plain": plain, "private": private}
    return {kind: {name: each.numpy() for name, each in sums.items()} for kind, sums in both.items()}


def _per_example(model: "torch.nn.Module", case: Case, dtype: "torch.dtype") -> "Iterator[tuple[torch.Tensor, ...]]":
    import torch

    images, labels = torch.from_numpy(case.input()).to(dtype), torch.from_numpy(case.labels())
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = torch.nn.functional.cross_entropy(model(image), label)
        yield torch.autograd.grad(loss, list(model.parameters()))
