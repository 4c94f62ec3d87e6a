"""The networks have the published shape and say their own size truthfully."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from privlib import models
from privlib.models import ModelError, Name, Norm, build, fold_batch_norm

# name, classes, image side, parameters and FLOP by hand: FLOP = 2 · positions · kernel² · inputs / groups · outputs.
CONVOLUTIONS = {  # (output side, kernel, inputs / groups, outputs)
    "small_cnn": [(16, 3, 3, 32), (16, 3, 32, 64), (8, 3, 64, 64)],
    "vgg9": [(32, 3, 3, 64), (32, 3, 64, 64), (16, 3, 64, 128), (16, 3, 128, 128), (8, 3, 128, 256), (8, 3, 256, 256)],
    "resnet32": [
        (32, 3, 3, 16),
        *[(32, 3, 16, 16)] * 10,
        (16, 3, 16, 32),
        *[(16, 3, 32, 32)] * 9,
        (16, 1, 16, 32),
        (8, 3, 32, 64),
        *[(8, 3, 64, 64)] * 9,
        (8, 1, 32, 64),
    ],
}
DENSE = {
    "small_cnn": [(1024, 64), (64, 10)],
    "vgg9": [(4096, 512), (512, 512), (512, 10)],
    "resnet32": [(64, 10)],
}
PARAMETERS = {"small_cnn": 122_570, "vgg9": 3_510_858, "resnet32": 466_906, "mobilenet": 3_217_226}


def mobilenet_convolutions(image: int) -> Iterator[tuple[int, int, int, int]]:
    """Table 1 of Howard et al. 2017."""
    side, width = image // 2, 32
    yield side, 3, 3, 32
    for channels, stride in (
        [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
        + [(512, 1)] * 5
        + [
            (1024, 2),
            (1024, 1),
        ]
    ):
        side //= stride
        yield side, 3, 1, width
        yield side, 1, width, channels
        width = channels


def flop_by_hand(name: str, image: int, classes: int) -> int:
    convolutions = mobilenet_convolutions(image) if name == "mobilenet" else CONVOLUTIONS[name]
    dense = [(1024, classes)] if name == "mobilenet" else DENSE[name]
    return 2 * (
        sum(side * side * kernel * kernel * inputs * outputs for side, kernel, inputs, outputs in convolutions)
        + sum(inputs * outputs for inputs, outputs in dense)
    )


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "image", "classes"),
    [("small_cnn", 32, 10), ("vgg9", 32, 10), ("resnet32", 32, 10), ("mobilenet", 32, 10), ("mobilenet", 224, 1000)],
)
def test_counts_are_those_of_the_docstring_the_counter_and_the_formula(name: Name, image: int, classes: int) -> None:
    model = build(name, classes, image).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = model(torch.zeros(1, 3, image, image))
    flop = counter.get_total_flops()
    assert logits.shape == (1, classes)
    assert flop == flop_by_hand(name, image, classes)
    assert models.__doc__ is not None
    if classes == 10:
        assert count(model) == PARAMETERS[name]
        row = re.search(rf"{name} +{image} +([\d,]+) +([\d,]+)", models.__doc__)
        assert row is not None
        assert [int(cell.replace(",", "")) for cell in row.groups()] == [count(model), flop]
        assert f"{count(model):,} parameters" in (type(model).__doc__ or "")
    else:
        assert f"{count(model):,} parameters and {flop:,} FLOP" in models.__doc__
    assert f"{flop:,}" in models.__doc__
    assert classes == 1000 or f"{flop:,}" in (type(model).__doc__ or "")


@pytest.mark.parametrize(("name", "parameters"), [("mobilenet", 3_217_226), ("resnet32", 466_906)])
def test_counts_with_either_norm_are_equal(name: Name, parameters: int) -> None:
    assert count(build(name, norm="batch")) == count(build(name, norm="group")) == parameters


@pytest.mark.parametrize(
    ("name", "norm"), [("small_cnn", None), ("vgg9", None), ("resnet32", "group"), ("mobilenet", "group")]
)
def test_trainable_models_have_no_layer_that_mixes_examples(name: Name, norm: Norm | None) -> None:
    model = build(name, norm=norm)
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    groups = {module.num_groups for module in model.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == (set() if norm is None else {8})


@pytest.mark.parametrize(("name", "image"), [("mobilenet", 32), ("mobilenet", 64), ("resnet32", 32)])
def test_folding_batch_norm_keeps_the_logits(name: Name, image: int) -> None:
    torch.manual_seed(1)
    model = build(name, image_size=image, norm="batch")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    images = torch.randn(4, 3, image, image)
    with torch.no_grad():
        expected, found = model.eval()(images), folded(images)
    assert float((found - expected).norm() / expected.norm()) < 1e-5  # up to 33 layers of float32 rounding
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_norm_that_cannot_be_folded_is_named() -> None:
    with pytest.raises(ModelError, match="^1 cannot be folded"):
        fold_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgg16",), "no model 'vgg16': choose small_cnn, vgg9, resnet32, mobilenet"),
        (("resnet32", 10, 32, "layer"), "resnet32 has no variant with norm='layer': choose 'group' or 'batch'"),
        (("vgg9", 10, 32, "group"), "vgg9 has no variant with norm='group': choose None"),
        (("mobilenet", 10, 100), "multiple of 32: 100 is not"),
        (("vgg9", 10, 0), "multiple of 8: 0 is not"),
        (("vgg9", 0), "at least one class"),
    ],
)
def test_what_is_not_defined_is_refused(arguments: tuple[str, int, int, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(*arguments)  # type: ignore[arg-type]


def test_weights_follow_the_seed() -> None:
    torch.manual_seed(7)
    first = build("resnet32").state_dict()
    torch.manual_seed(7)
    again = build("resnet32").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
