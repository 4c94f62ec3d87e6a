"""The check of a compiled training step against eager PyTorch, example by example."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from privlib.compiler.custom_loss import Loss
from privlib.compiler.errors import CompileError, VerificationError

if TYPE_CHECKING:
    from privlib.trusted.training import TrainingStep

LOSS_TOLERANCE, TENSOR_TOLERANCE = 1e-4, 5e-2  # relative: of the mean loss, and of each tensor's sum (L2)
NORM_FLOOR = 1e-4  # of the whole sum's norm: a tensor shorter than that is compared with this
EXAMPLES = 8  # of the random batch that are given; the other rows are padding


def refuse_modules(model: torch.nn.Module) -> None:
    """CompileError naming every module that cannot be trained per example: BatchNorm, and dropout."""
    dropped = [name for name, module in model.named_modules() if isinstance(module, _Dropout) and module.p > 0]
    if dropped:
        raise CompileError(
            f"{', '.join(dropped)}: dropout is not supported in training; set its p to 0 or leave it out (clipping and "
            "noise regularize already)"
        )
    found = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if found:
        raise CompileError(
            f"{', '.join(found)}: BatchNorm computes with the other examples of a batch, so no example has a gradient "
            "of its own; use torch.nn.GroupNorm, which normalizes each example by itself"
        )


def verify_training(
    model: torch.nn.Module, compiled: "TrainingStep", loss: Loss | None, classes: int, seed: int = 0
) -> None:
    """Compare loss and gradient sum of a random batch with a loop over its examples in eager PyTorch.

    Raises VerificationError where they disagree; CompileError where the model does not run on one example.
    """
    random = np.random.default_rng(seed)
    count, views = min(EXAMPLES, compiled.batch_size), compiled.augmentations
    shape = (count, views, *compiled.input_shape)
    images = random.standard_normal(shape).astype("float32")
    labels = random.integers(0, classes, count)
    before = {name: parameter.grad for name, parameter in model.named_parameters()}
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        losses, sums = _loop(model, compiled, loss or _cross_entropy, images, labels)
    except RuntimeError as error:
        raise CompileError(f"the model does not run on a single example: {error}") from error
    finally:
        for module, training in flags:
            module.training = training
        for name, parameter in model.named_parameters():
            parameter.grad = before[name]
    flat = images if views > 1 else images[:, 0]
    found = compiled.clipped_gradient_sum(flat, labels)
    whole = sum(float((value**2).sum()) for value in sums.values()) ** 0.5
    mean = compiled.mean_loss(flat, labels)
    if not abs(mean - losses) <= LOSS_TOLERANCE * max(abs(losses), 1e-6):
        raise VerificationError(f"the compiled mean loss is {mean:.6g}, eager PyTorch's {losses:.6g}; {_REPORT}")
    for name, expected in sums.items():
        size = max(float(np.linalg.norm(expected)), NORM_FLOOR * whole, 1e-30)
        difference = float(np.linalg.norm(found[name] - expected)) / size
        if not difference <= TENSOR_TOLERANCE:
            raise VerificationError(
                f"the compiled gradient sum of {name} differs from eager PyTorch's by {difference:.1e} (relative L2; "
                f"at most {TENSOR_TOLERANCE:.0e} is allowed); {_REPORT}"
            )


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


_REPORT = "the step is not handed out: please report it, a pass or kernel treats one of the operators wrongly"


def _loop(
    model: torch.nn.Module, compiled: "TrainingStep", loss: Loss, images: np.ndarray, labels: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss and clipped sum, one example after the other."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: np.zeros(tuple(p.shape)) for name, p in trained.items()}
    losses = []
    for views, label in zip(images, labels, strict=True):
        for parameter in trained.values():
            parameter.grad = None
        logits = torch.cat([model(torch.from_numpy(view[None])) for view in views])
        value = loss(logits, torch.full((len(views),), int(label))).mean()
        value.backward()
        gradients = {
            n: np.zeros(tuple(p.shape)) if p.grad is None else p.grad.double().numpy() for n, p in trained.items()
        }
        factor = _factor(compiled, sum(float((g**2).sum()) for g in gradients.values()) ** 0.5)
        for name, gradient in gradients.items():
            sums[name] += factor * gradient
        losses.append(value.item())
    return float(np.mean(losses)), sums


def _factor(compiled: "TrainingStep", norm: float) -> float:
    if compiled.privacy is None:
        return 1.0
    bound = float(compiled.privacy["max_grad_norm"]) / (1 + compiled.clipping_margin)
    if compiled.privacy["clipping"] == "normalize":
        return bound / norm if norm else 0.0
    return min(1.0, bound / norm) if norm else 1.0
