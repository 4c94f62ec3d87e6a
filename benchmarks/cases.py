"""What all peers of one measurement share: the same weights and the same input, laid down once in a folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


ModelName = Literal["small_cnn", "vgg9", "resnet32", "mobilenet"]

# Of every training step that is timed; DP-SGD's noise has standard deviation NOISE_MULTIPLIER × MAX_GRAD_NORM.
LEARNING_RATE = 0.05
NOISE_MULTIPLIER = 1.0
MAX_GRAD_NORM = 1.0


class Prepared(NamedTuple):
    """A peer whose timed work gives nothing to compare, or does many batches at once: what it computed for the
    comparison, the work, and how many batches that is.

    agreement: arrays by name, for training one for each parameter (names and shapes of the state dict): the averaged
    gradient, or the sum of the clipped gradients without noise where the peer is private.
    """

    agreement: Mapping[str, NDArray[Any]]
    run: Callable[[], object]
    batches: int = 1


@dataclass(frozen=True)
class Case:
    """A model, a batch and where they lie.

    `folder` holds `case.json`, `weights.pt` (a state dict), `input.npy` (float32, (batch_size, *input_shape)) and for
    training `labels.npy` (int64, (batch_size,)), for inference `pixels.npy` (uint8, the same images before
    `data.preprocess`). `batches`: how many an enclave is asked for at once.
    """

    folder: Path
    row: str
    model_name: ModelName
    num_classes: int
    image_size: int
    batch_size: int
    batches: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image, channels first."""
        return (3, self.image_size, self.image_size)

    def model(self) -> "torch.nn.Module":
        """The model with the case's weights, in evaluation mode. Imports torch."""
        import torch

        from privlib import models

        model = models.build(self.model_name, num_classes=self.num_classes, image_size=self.image_size)
        model.load_state_dict(torch.load(self.folder / "weights.pt", weights_only=True))
        return model.eval()

    def input(self) -> NDArray[np.float32]:
        """The batch, float32 (batch_size, *input_shape)."""
        batch: NDArray[np.float32] = np.load(self.folder / "input.npy")
        return batch

    def pixels(self) -> NDArray[np.uint8]:
        """The batch's pixels, uint8 (batch_size, *input_shape): what privlib takes; the others get `input`."""
        batch: NDArray[np.uint8] = np.load(self.folder / "pixels.npy")
        return batch

    def labels(self) -> NDArray[np.int64]:
        """The batch's classes, int64 (batch_size,)."""
        classes: NDArray[np.int64] = np.load(self.folder / "labels.npy")
        return classes

    def save(self) -> None:
        """Write `case.json`, from which a peer's process reads the case."""
        fields = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "case.json").write_text(json.dumps(fields), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Case":
        """Read what `save` wrote."""
        return cls(folder=folder, **json.loads((folder / "case.json").read_text(encoding="utf-8")))
