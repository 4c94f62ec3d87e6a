"""PyTorch models to int8: exact where it must be, close where it may be, and refused where no shift does it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privlib import models
from privlib.ginseng import lower
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.int8 import QuantisedModel, best_exponent, round_to_int8
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.quantise import quantise
from privlib.ginseng.vta import functional
from privlib.ginseng.vta.network import Conv
from tests.ginseng.int8_reference import forward


class Block(nn.Module):
    """A residual block with BatchNorm; a projection where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after))
        projection = nn.Sequential(nn.Conv2d(before, after, 1, stride), nn.BatchNorm2d(after))
        self.shortcut: nn.Module = projection if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class Everything(nn.Module):
    """Every kind of layer that is lowered."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(Block(16, 16, 1), Block(16, 24, 2)),
        )
        self.classifier = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3, size, size)).astype(np.float32)


def settled(model: nn.Module, size: int = 16) -> nn.Module:
    """With BatchNorm statistics of the images, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.from_numpy(images(64, size)))
    return model.eval()


@pytest.fixture(scope="module")
def everything() -> tuple[nn.Module, QuantisedModel]:
    torch.manual_seed(2)
    model = settled(Everything())
    return model, quantise(model, images(64), "everything")


def test_batches_images_and_the_accelerator_agree_to_the_bit(everything: tuple[nn.Module, QuantisedModel]) -> None:
    _, quantised = everything
    inputs = quantised.quantise_images(images(6))
    logits = quantised.reference(inputs)
    program = lower(quantised.network)
    memory = protected_dram("tec", program)
    functional.load_constants(program, quantised.parameters, memory)
    for image, expected in zip(inputs, logits, strict=True):
        independent = forward(quantised.network, quantised.parameters, image)[quantised.network.output]
        np.testing.assert_array_equal(expected, independent.ravel())
        np.testing.assert_array_equal(functional.run(program, memory, image).ravel(), expected)
    assert len(np.unique(logits)) > 20


def test_int8_stays_close_to_float(everything: tuple[nn.Module, QuantisedModel]) -> None:
    model, quantised = everything
    inputs = images(200)
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    found = quantised.dequantise(quantised.reference(quantised.quantise_images(inputs)))
    assert np.linalg.norm(found - expected) < 0.12 * np.linalg.norm(expected)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_all_layers_are_there_and_residuals_are_joined(everything: tuple[nn.Module, QuantisedModel]) -> None:
    layers = everything[1].network.layers
    assert [type(layer).__name__ for layer in layers].count("Conv") == 8
    assert sum(layer.residual is not None for layer in layers) == 2
    assert sum(isinstance(layer, Conv) and layer.depthwise for layer in layers) == 1


@pytest.mark.parametrize(
    ("name", "norm"), [("small_cnn", None), ("vgg9", None), ("mobilenet", "batch"), ("resnet32", "batch")]
)
def test_the_suites_networks_are_imported_whole(name: models.Name, norm: models.Norm | None) -> None:
    torch.manual_seed(0)
    quantised = quantise(settled(models.build(name, norm=norm), 32), images(8, 32), name)
    weights = sum(array.size for pair in quantised.parameters.values() for array in pair)
    assert weights == sum(p.numel() for p in models.fold_batch_norm(models.build(name, norm=norm)).parameters())
    assert quantised.network.input_shape == (3, 32, 32)
    assert quantised.network.shapes[quantised.network.output] == (10, 1, 1)


def test_a_pytorch_model_can_be_lowered_at_once() -> None:
    torch.manual_seed(0)
    program = lower(settled(Everything()), images(16))
    assert program.quantised is not None
    assert program.quantised.network == program.network
    assert lower("tiny").quantised is None
    with pytest.raises(LoweringError, match="calibration_images"):
        lower(Everything())


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (nn.GroupNorm(4, 16), "GroupNorm"),
        (nn.Sigmoid(), "Sigmoid"),
        (nn.Conv2d(16, 16, 3, dilation=2), "undilated"),
        (nn.Conv2d(16, 16, 3, padding_mode="reflect"), "padded with zeros"),
        (nn.Conv2d(16, 16, 3, groups=4), "4 groups"),
        (nn.Conv2d(16, 16, (3, 1)), "square"),
        (nn.Conv2d(16, 16, 3, stride=(1, 2)), "square"),
        (nn.MaxPool2d(3, 2), "side by side"),
        (nn.AdaptiveAvgPool2d(2), "whole feature maps"),
        (nn.Sequential(nn.MaxPool2d(5), nn.AdaptiveAvgPool2d(1)), "power of two"),
    ],
)
def test_what_no_shift_does_is_refused_by_name(layer: nn.Module, complaint: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), layer)
    with pytest.raises(LoweringError, match=complaint):
        quantise(model, images(4))


def test_a_value_that_fusion_removes_is_not_read() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            return self.two(y) * torch.relu(y)

    with pytest.raises(LoweringError, match="no counterpart"):
        quantise(Twice(), images(4))


def test_calibration_images_must_be_images() -> None:
    with pytest.raises(LoweringError, match="calibration images"):
        quantise(Everything(), np.zeros((0, 3, 16, 16), np.float32))


@pytest.mark.parametrize("scale", [1e-4, 0.03, 1.0, 700.0])
def test_the_exponent_is_the_best_of_all(scale: float) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(size=5000)) * scale

    def error(exponent: int) -> float:
        return float((round_to_int8(values, exponent) / 2.0**exponent - values).square().mean())

    assert best_exponent(values) == min(range(-30, 30), key=error)
    assert best_exponent(torch.zeros(3)) == 0


def test_rounding_is_to_the_nearest_and_clips() -> None:
    values = torch.tensor([-1000.0, -0.5, -0.49, 0.49, 0.5, 1.5, 1000.0])
    assert round_to_int8(values, 0).tolist() == [-128, 0, 0, 0, 1, 2, 127]


def test_a_bias_too_large_for_the_sums_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1))
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1e-6)
        model[0].bias.fill_(1e6)  # type: ignore[operator]  # a Conv2d has one
    with pytest.raises(LoweringError, match="int32"):
        quantise(model, images(4))
