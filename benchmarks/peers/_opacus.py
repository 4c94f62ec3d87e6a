"""What the Opacus peers share: DP-SGD with its own modules and optimizers, driven as its privacy engine drives them."""

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from benchmarks.cases import MAX_GRAD_NORM, NOISE_MULTIPLIER, Case, Prepared
from benchmarks.peers import _pytorch


def unavailable() -> str | None:
    """Opacus is in the extra `peers`."""
    return None if find_spec("opacus") else "opacus not installed (pip install 'privlib[peers]')."


def versions() -> dict[str, str]:
    """Versions of Opacus and PyTorch."""
    return {"opacus": metadata.version("opacus"), "torch": metadata.version("torch")}


def training(case: Case, mode: str) -> Prepared:
    """One step in a grad sample mode: "hooks", "ew", "functorch", or "ghost" (norms without gradients, two passes)."""
    model, backward, optimizer = _parts(case, mode)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward()
        optimizer.step()

    return Prepared(_clipped_sum(case, model, optimizer, step), step)


def accumulation(case: Case) -> Prepared:
    """Ghost clipping leaves the clipped sum where PyTorch's gradients are."""
    model, backward, optimizer = _parts(case, "ghost")

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward()

    run()
    return Prepared({name: p.grad.numpy().copy() for name, p in model.named_parameters()}, run)


def _parts(case: Case, mode: str) -> tuple[Any, Callable[[], None], Any]:
    """The model, its forward and backward passes through Opacus's module, and Opacus's optimizer."""
    import torch
    from opacus.grad_sample.utils import prepare_module
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    _pytorch.use_all_cores()
    model, images, labels = _pytorch.batch(case)
    ghost = mode == "ghost"
    settings = {"max_grad_norm": MAX_GRAD_NORM, "use_ghost_clipping": True} if ghost else {}
    module = prepare_module(model, mode, **settings)
    kind = DPOptimizerFastGradientClipping if ghost else DPOptimizer
    optimizer = kind(
        _pytorch.sgd(model),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=MAX_GRAD_NORM,
        expected_batch_size=case.batch_size,
    )
    criterion: Any = torch.nn.CrossEntropyLoss()
    if ghost:
        criterion = DPLossFastGradientClipping(module, optimizer, criterion)
    return model, lambda: criterion(module(images), labels).backward(), optimizer


def _clipped_sum(case: Case, model: Any, optimizer: Any, step: Callable[[], object]) -> dict[str, Any]:
    """A whole step without noise applies the sum over the expected batch size."""
    optimizer.noise_multiplier = 0.0
    applied = _pytorch.applied_gradient(model, optimizer, step)
    optimizer.noise_multiplier = NOISE_MULTIPLIER
    return {name: case.batch_size * gradient for name, gradient in applied.items()}
