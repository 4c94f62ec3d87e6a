"""DP-SGD as it is defined: a PyTorch loop over the examples, one backward pass each, clip, add. O(m) operators."""

from benchmarks.cases import MAX_GRAD_NORM, Case, Prepared
from benchmarks.peers import _pytorch
from benchmarks.peers._pytorch import facts
from benchmarks.peers.pytorch_eager import versions

__all__ = ["PRECISION", "PRIVATE", "accumulation", "facts", "versions"]

PRECISION = "float32"
PRIVATE = True


def accumulation(case: Case) -> Prepared:
    """The clipped sum of one batch."""
    import torch

    _pytorch.use_all_cores()
    model, images, labels = _pytorch.batch(case)
    parameters = dict(model.named_parameters())

    def run() -> dict[str, torch.Tensor]:
        sums = [torch.zeros_like(p) for p in parameters.values()]
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            loss = torch.nn.functional.cross_entropy(model(image), label)
            gradient = torch.autograd.grad(loss, list(parameters.values()))
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradient]))
            torch._foreach_add_(sums, gradient, alpha=min(1.0, MAX_GRAD_NORM / float(norm)))
        return dict(zip(parameters, sums, strict=True))

    return Prepared({name: each.numpy() for name, each in run().items()}, run)
