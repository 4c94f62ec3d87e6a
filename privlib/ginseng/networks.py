"""Tables of shapes: ResNet-18 (C2 to C11 with their counts); VGG-9, ResNet-32, MobileNet at 32 pixels; a tiny one.

Shifts are natural ones for random weights; a quantised model brings its own (`dataclasses.replace` a layer).
"""

from collections.abc import Callable

from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.network import Conv, MaxPool, Network, Shape, SumPool, Window, natural_shift


class _Builder:
    """Appends layers, each reading the last one unless told otherwise."""

    def __init__(self, shape: Shape) -> None:
        self.layers: list[Window] = []
        self.last, self.shape = "input", shape

    def conv(
        self,
        name: str,
        filters: int,
        kernel: int = 3,
        stride: int = 1,
        pad: int | None = None,
        *,
        source: tuple[str, Shape] | None = None,
        add: str | None = None,
        depthwise: bool = False,
        relu: bool = True,
    ) -> tuple[str, Shape]:
        origin, (channels, height, width) = source or (self.last, self.shape)
        fan_in = kernel * kernel * (1 if depthwise else channels)
        self._append(
            Conv(
                name,
                origin,
                channels,
                height,
                width,
                kernel,
                stride,
                natural_shift(fan_in),
                filters,
                kernel // 2 if pad is None else pad,
                depthwise,
                relu,
                add,
                6 if add else 0,
            )
        )
        return self.last, self.shape

    def pool(self, kind: type[MaxPool] | type[SumPool], name: str, kernel: int, shift: int = 0) -> None:
        self._append(kind(name, self.last, *self.shape, kernel, kernel, shift))

    def dense(self, name: str, filters: int, relu: bool = True) -> None:
        self.conv(name, filters, self.shape[1], pad=0, relu=relu)

    def _append(self, layer: Window) -> None:
        self.layers.append(layer)
        self.last, self.shape = layer.name, layer.out_shape

    def network(self, name: str, shape: Shape) -> Network:
        return Network(name, shape, tuple(self.layers))


def _basic_block(builder: _Builder, name: str, filters: int, stride: int, labels: tuple[str, str, str]) -> None:
    """Two 3x3 convolutions and a shortcut, projected by 1x1 where the shape changes."""
    entry = (builder.last, builder.shape)
    first, second, projection = (f"{name}/{label}" for label in labels)
    shortcut = entry
    if stride != 1 or entry[1][0] != filters:
        shortcut = builder.conv(projection, filters, 1, stride, source=entry, relu=False)
    inner = builder.conv(first, filters, 3, stride, source=entry)
    builder.conv(second, filters, source=inner, add=shortcut[0])


def resnet18() -> Network:
    """The part of ResNet-18 v1 that the published run put on the accelerator: everything after the first convolution
    and pool up to the last, so the layers C2...C11 appear 4, 1, 1, 3, 1, 1, 3, 1, 1, 3 times (eight residual
    additions)."""
    shape = (64, 56, 56)
    builder = _Builder(shape)
    for stage, (filters, labels) in enumerate(
        ((64, ("C2", "C2", "")), (128, ("C3", "C5", "C4")), (256, ("C6", "C8", "C7")), (512, ("C9", "C11", "C10")))
    ):
        _basic_block(
            builder,
            f"{stage + 1}.1",
            filters,
            1 if stage == 0 else 2,
            (labels[0] + "a" if stage == 0 else labels[0], labels[1], labels[2]),
        )
        _basic_block(builder, f"{stage + 1}.2", filters, 1, (labels[1] + "a", labels[1], ""))
    return builder.network("resnet18", shape)


def vgg9() -> Network:
    """Convolutions 64, 64, pool, 128, 128, pool, 256, 256, pool, then dense 512, 512, 10."""
    builder = _Builder((3, 32, 32))
    for stage, filters in enumerate((64, 128, 256), start=1):
        builder.conv(f"conv{stage}a", filters)
        builder.conv(f"conv{stage}b", filters)
        builder.pool(MaxPool, f"pool{stage}", 2)
    builder.dense("dense1", 512)
    builder.dense("dense2", 512)
    builder.dense("logits", 10, relu=False)
    return builder.network("vgg9", (3, 32, 32))


def resnet32() -> Network:
    """16, 32 and 64 channels, five basic blocks each, global mean, dense 10."""
    builder = _Builder((3, 32, 32))
    builder.conv("stem", 16)
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, 6):
            _basic_block(builder, f"{stage}.{block}", filters, 2 if stage > 1 and block == 1 else 1, ("a", "b", "p"))
    builder.pool(SumPool, "mean", 8, shift=6)
    builder.dense("logits", 10, relu=False)
    return builder.network("resnet32", (3, 32, 32))


def tiny() -> Network:
    """A residual block and a dense layer on 12 x 12 pixels, for demonstrations that take no time."""
    builder = _Builder((16, 12, 12))
    _basic_block(builder, "block", 32, 2, ("a", "b", "p"))
    builder.pool(MaxPool, "pool", 2)
    builder.dense("logits", 10, relu=False)
    return builder.network("tiny", (16, 12, 12))


def mobilenet() -> Network:
    """MobileNet v1, width 1, at 32 pixels: stem of stride 2, thirteen depthwise-separable pairs, dense 10 (the last
    feature map is a single pixel, so its mean is itself)."""
    builder = _Builder((3, 32, 32))
    builder.conv("stem", 32, stride=2)
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for number, (filters, stride) in enumerate(plan, start=1):
        builder.conv(f"{number}/depthwise", builder.shape[0], 3, stride, depthwise=True)
        builder.conv(f"{number}/pointwise", filters, 1)
    builder.dense("logits", 10, relu=False)
    return builder.network("mobilenet", (3, 32, 32))


NETWORKS: dict[str, Callable[[], Network]] = {
    "resnet18": resnet18,
    "resnet32": resnet32,
    "vgg9": vgg9,
    "mobilenet": mobilenet,
    "tiny": tiny,
}


def build(name: str) -> Network:
    """The network called `name`. LoweringError lists the names there are."""
    if name not in NETWORKS:
        raise LoweringError(f"no network called {name!r}; there are {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name]()
