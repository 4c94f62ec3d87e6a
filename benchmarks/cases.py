"""What all peers of one measurement share: the same weights and the same input, laid down once in a folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Case:
    """A model, a batch and where they lie.

    `folder` holds `case.json`, `weights.pt` (a state dict) and `input.npy` (float32, (batch_size, *input_shape)).
    """

    folder: Path
    row: str
    model_name: Literal["small_cnn", "vgg9", "resnet32", "mobilenet"]
    num_classes: int
    image_size: int
    batch_size: int

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

    def save(self) -> None:
        """Write `case.json`, from which a peer's process reads the case."""
        fields = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "case.json").write_text(json.dumps(fields), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Case":
        """Read what `save` wrote."""
        return cls(folder=folder, **json.loads((folder / "case.json").read_text(encoding="utf-8")))
