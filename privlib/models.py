"""The talk's networks as plain PyTorch modules: the one definition that privlib's compiler and every peer start from.

Counts are of trainable parameters with 10 classes, and of one image's forward pass, a multiplication and an addition
being two operations (FLOP) and only convolutions and dense layers counted:

    name         image   parameters            FLOP   normalisation
    small_cnn       32      122,570      14,730,496   none
    vgg9            32    3,510,858     310,257,664   none
    resnet32        32      466,906     138,249,472   GroupNorm
    mobilenet       32    3,217,226      23,192,576   BatchNorm or GroupNorm
    mobilenet      224    3,217,226   1,135,453,184   the same

With 1000 classes MobileNet has 4,231,976 parameters and 1,137,480,704 FLOP at 224 pixels.

VGG-9: Simonyan & Zisserman 2015, cut down. ResNet-32: He et al. 2016, with GroupNorm (Wu & He 2018) so that no example
depends on another; with BatchNorm, as published, for accelerators whose arithmetic knows no image's own statistics.
MobileNet v1, width 1.0: Howard et al. 2017.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from privlib.errors import PrivlibError

Name = Literal["small_cnn", "vgg9", "resnet32", "mobilenet"]
Norm = Literal["batch", "group"]

GROUPS = 8
"""Groups of every GroupNorm, as far as there are channels."""


class ModelError(PrivlibError):
    """A model that privlib does not have, or a variant that its definition does not allow."""


def build(name: Name, num_classes: int = 10, image_size: int = 32, norm: Norm | None = None) -> nn.Module:
    """A network with fresh weights, in training mode: float32 (B,3,image_size,image_size) to logits (B,num_classes).

    `norm`: None takes the network's own, the first in the table; "batch" (inference) or "group" (private training).
    Initial weights come from torch's global generator. Raises `ModelError` for what the table above does not have.
    """
    if name not in _ALLOWED:
        raise ModelError(f"no model {name!r}: choose {', '.join(_ALLOWED)}")
    norms, multiple = _ALLOWED[name]
    chosen = norms[0] if norm is None else norm
    if chosen not in norms:
        available = " or ".join(repr(each) for each in norms)
        raise ModelError(f"{name} has no variant with norm={norm!r}: choose {available}")
    if image_size <= 0 or image_size % multiple:
        raise ModelError(f"{name} needs an image side that is a multiple of {multiple}: {image_size} is not")
    if num_classes < 1:
        raise ModelError(f"a classifier needs at least one class, not {num_classes}")
    model: nn.Module
    if name == "small_cnn":
        model = SmallCNN(num_classes, image_size)
    elif name == "vgg9":
        model = VGG9(num_classes, image_size)
    elif name == "resnet32":
        model = ResNet32(num_classes, batch_norm=chosen == "batch")
    else:
        model = MobileNet(num_classes, batch_norm=chosen == "batch")
    _initialize(model)
    return model


class SmallCNN(nn.Module):
    """Three 3×3 convolutions of 32, 64 and 64 channels, each with ReLU and a 2×2 maximum (the first has stride 2 and
    no maximum), dense 64 and classes; biases. 122,570 parameters, 14,730,496 FLOP."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            *_convolutions((32, 64)),
            nn.MaxPool2d(2),
            *_convolutions((64, 64)),
            nn.MaxPool2d(2),
        )
        side = image_size // 8
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * side * side, 64), nn.ReLU(), nn.Linear(64, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class VGG9(nn.Module):
    """Six 3×3 convolutions of 64, 64, 128, 128, 256, 256 channels, a 2×2 maximum after each pair, dense 512, 512 and
    classes; ReLU, biases. 3,510,858 parameters, 310,257,664 FLOP."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in ((3, 64, 64), (64, 128, 128), (128, 256, 256)):
            layers += [*_convolutions(channels), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        side = image_size // 8
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * side * side, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class BasicBlock(nn.Module):
    """convolution, norm, ReLU, convolution, norm, add the input, ReLU; where the shape changes, the input goes
    through a 1×1 projection of stride 2 and a norm."""

    def __init__(self, channels_in: int, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        stride = 1 if channels_in == channels else 2
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(channels, batch_norm=batch_norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels, batch_norm=batch_norm)
        projection = nn.Conv2d(channels_in, channels, 1, stride=2, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(projection, _norm(channels, batch_norm=batch_norm))
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(images)))
        return self.relu(self.norm2(self.conv2(inner)) + self.shortcut(images))


class ResNet32(nn.Module):
    """A 3×3 stem, five blocks each of 16, 32 and 64 channels, GroupNorm or BatchNorm, global mean, dense.

    466,906 parameters; 138,249,472 FLOP at 32 pixels.
    """

    def __init__(self, num_classes: int, *, batch_norm: bool) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, _norm(16, batch_norm=batch_norm), nn.ReLU())
        widths = [16] * 6 + [32] * 5 + [64] * 5
        pairs = itertools.pairwise(widths)
        self.blocks = nn.Sequential(*(BasicBlock(*pair, batch_norm=batch_norm) for pair in pairs))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))


class MobileNet(nn.Module):
    """MobileNet v1, width 1.0: a stride-2 stem of 32 channels and 13 pairs of depthwise 3×3 and pointwise 1×1
    convolutions, each with norm and ReLU; global mean, dense.

    3,217,226 parameters with 10 classes; 23,192,576 FLOP at 32 pixels, 1,135,453,184 at 224.
    """

    PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    """(output channels, stride of the depthwise convolution)"""

    def __init__(self, num_classes: int, *, batch_norm: bool) -> None:
        super().__init__()

        def unit(channels_in: int, channels: int, size: int, stride: int, groups: int) -> Iterator[nn.Module]:
            yield nn.Conv2d(channels_in, channels, size, stride, padding=size // 2, groups=groups, bias=False)
            yield _norm(channels, batch_norm=batch_norm)
            yield nn.ReLU()

        layers = [*unit(3, 32, 3, 2, 1)]
        width = 32
        for channels, stride in self.PAIRS:
            layers += [*unit(width, width, 3, stride, width), *unit(width, channels, 1, 1, 1)]
            width = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose BatchNorms are folded into the convolutions before them.

    w' = w·γ/√(v+ε) and b' = (b−m)·γ/√(v+ε)+β, so logits agree up to rounding. Raises `ModelError`, naming the layer,
    for a BatchNorm that does not follow a convolution inside an `nn.Sequential` or a `BasicBlock`.
    """
    folded = copy.deepcopy(model).eval()
    for parent in folded.modules():
        if isinstance(parent, BasicBlock):
            for number in "12":
                conv, norm = getattr(parent, f"conv{number}"), getattr(parent, f"norm{number}")
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(parent, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                    setattr(parent, f"norm{number}", nn.Identity())
        if isinstance(parent, nn.Sequential):
            for index in range(1, len(parent)):
                before, norm = parent[index - 1], parent[index]
                if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    parent[index - 1], parent[index] = fuse_conv_bn_eval(before, norm), nn.Identity()
    for name, module in folded.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(f"{name} cannot be folded: put it right after a Conv2d in an nn.Sequential")
    return folded


_ALLOWED: dict[str, tuple[tuple[Norm | None, ...], int]] = {
    "small_cnn": ((None,), 8),
    "vgg9": ((None,), 8),
    "resnet32": (("group", "batch"), 4),
    "mobilenet": (("batch", "group"), 32),
}
"""name -> norms, the default first; and the multiple of pixels that an image side must be."""


def _convolutions(channels: tuple[int, ...]) -> Iterator[nn.Module]:
    for before, after in itertools.pairwise(channels):
        yield nn.Conv2d(before, after, 3, padding=1)
        yield nn.ReLU()


def _norm(channels: int, *, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.GroupNorm(min(GROUPS, channels), channels)


def _initialize(model: nn.Module) -> None:
    """He et al. 2015: normal with variance 2 / fan-in before a ReLU; biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
