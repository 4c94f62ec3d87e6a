"""What the PyTorch peers share: all available cores, the optimizer, a step of SGD, the gradient that a step applies."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from benchmarks.cases import LEARNING_RATE, Case, Prepared
from privlib.suite import system

if TYPE_CHECKING:
    import torch


def use_all_cores() -> None:
    """Set PyTorch's threads to the CPUs this process may run on."""
    import torch

    torch.set_num_threads(system.available_cores())


def training(
    case: Case, *, channels_last: bool = False, compiled: bool = False, autocast: "torch.dtype | None" = None
) -> Prepared:
    """Plain SGD: forward, loss, backward, update; with `compiled` forward, loss and backward go through Inductor."""
    import torch

    use_all_cores()
    model, images, labels = batch(case, channels_last)
    optimizer = sgd(model)

    def loss(images: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.cross_entropy(model(images).float(), labels)

    forward = torch.compile(loss) if compiled else loss
    precision: Any = nullcontext() if autocast is None else torch.autocast("cpu", autocast)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision:
            value = forward(images, labels)
        value.backward()
        optimizer.step()

    return Prepared(applied_gradient(model, optimizer, step), step)


def facts(case: Case, peer: str, run: Callable[[], object]) -> dict[str, int]:
    """How many PyTorch operators one run calls."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return function(*args, **(kwargs or {}))

    with Counter() as counter:
        run()
    return {"operators": counter.calls}


def batch(case: Case, channels_last: bool = False) -> tuple["torch.nn.Module", "torch.Tensor", "torch.Tensor"]:
    """The case's model in training mode, images and labels."""
    import torch

    model, images = case.model().train(), torch.from_numpy(case.input())
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to(memory_format=torch.channels_last)
    return model, images, torch.from_numpy(case.labels())


def sgd(model: "torch.nn.Module") -> "torch.optim.Optimizer":
    """PyTorch's fastest SGD on a CPU, the fused one."""
    import torch

    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, fused=True)


def applied_gradient(
    model: "torch.nn.Module", optimizer: "torch.optim.Optimizer", step: Callable[[], object]
) -> dict[str, Any]:
    """What a step at learning rate 1 subtracts from each parameter, by name; the parameters are put back."""
    import torch

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    group = optimizer.param_groups[0]
    rate, group["lr"] = group["lr"], 1.0
    step()
    group["lr"] = rate
    with torch.no_grad():
        gradient = {name: (before[name] - p).contiguous().numpy() for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    return gradient
