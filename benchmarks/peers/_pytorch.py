"""What the PyTorch peers share: all available cores, and BatchNorm folded into the convolution before it."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def use_all_cores() -> None:
    """Set PyTorch's threads to the CPUs this process may run on."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


def fold_batch_norm(model: "torch.nn.Module") -> "torch.nn.Module":
    """A copy of `model` (evaluation mode) with each BatchNorm that follows a convolution folded into it."""
    import torch
    from torch.fx.experimental.optimization import fuse

    has_batch_norm = any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    return fuse(model) if has_batch_norm else model
