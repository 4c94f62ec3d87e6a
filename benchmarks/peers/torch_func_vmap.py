"""`torch.func`: the gradient of every example instantiated by `vmap` over `grad`, then clipped and summed."""

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
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scores = torch.func.functional_call(model, parameters, (image[None],))
        return torch.nn.functional.cross_entropy(scores, label[None])

    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def run() -> dict[str, torch.Tensor]:
        gradients = per_example(parameters, images, labels)
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        factors = MAX_GRAD_NORM / norms.clamp(min=MAX_GRAD_NORM)
        return {name: torch.tensordot(factors, g, dims=1) for name, g in gradients.items()}

    return Prepared({name: each.numpy() for name, each in run().items()}, run)
