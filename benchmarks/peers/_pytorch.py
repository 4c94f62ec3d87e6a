"""What the PyTorch peers share: all available cores."""

from privlib.suite import system


def use_all_cores() -> None:
    """Set PyTorch's threads to the CPUs this process may run on."""
    import torch

    torch.set_num_threads(system.available_cores())
