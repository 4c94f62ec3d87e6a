"""Published accuracies on CIFAR-10 under differential privacy, from scratch: no real data but CIFAR-10's.

δ = 1e-5 in all of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A result of others: accuracy in %, at ε; `name` is its column in a metric's path."""

    name: str
    label: str
    epsilon: float
    accuracy: float
    source: str


_TRAMER = "Tramèr & Boneh, ICLR 2021, arXiv 2011.11660"

PUBLISHED = (
    Published("dp_randp", "DP-RandP", 1, 72.3, "Tang et al. 2023, arXiv 2306.06076, pretrained on synthetic images"),
    Published("scatternet_linear", "ScatterNet + linear", 3, 67.0, f"{_TRAMER}, batches of 8,192"),
    Published("scatternet_cnn", "ScatterNet + CNN", 3, 69.3, _TRAMER),
    Published("cnn", "CNN", 3, 59.2, f"{_TRAMER}, trained end to end"),
    Published("wrn_40_4", "WRN-40-4", 8, 81.4, "De et al. 2022, arXiv 2204.13650"),
    Published("resnet_scalenorm", "ResNet, ScaleNorm", 8, 82.5, "Klause et al. 2022, arXiv 2203.00324"),
)
