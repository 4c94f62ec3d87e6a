"""Accuracy of parameters on data that is not trained on."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

Evaluation = Callable[[Mapping[str, np.ndarray]], float]
"""Parameters by state_dict name → accuracy between 0 and 1."""


def accuracy_on(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int = 256) -> Evaluation:
    """An Evaluation: the share of images float32 (N, …) that `model`, with the parameters given, labels as `labels`
    (N,) says. The model is used in evaluation mode and keeps the parameters. The data must be public or held out: what
    is shown of it is not noised."""

    def evaluate(parameters: Mapping[str, np.ndarray]) -> float:
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in parameters.items()})
        flags = {module: module.training for module in model.modules()}
        right = 0
        with torch.inference_mode():
            model.eval()
            for start in range(0, len(images), batch_size):
                rows = slice(start, start + batch_size)
                found = model(torch.from_numpy(np.ascontiguousarray(images[rows]))).argmax(1).numpy()
                right += int((found == labels[rows]).sum())
        for module, training in flags.items():
            module.training = training
        return right / max(1, len(images))

    return evaluate
