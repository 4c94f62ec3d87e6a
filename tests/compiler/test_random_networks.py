"""Networks drawn at random, compiled in float64, against a loop over the examples; more of them in `make soak`."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from privlib.compiler import DPSGD, SGD, UnsupportedOperatorError, VerificationError, compile_training
from tests.compiler.test_differentiate import CLASSES, worst
from tests.compiler.test_training import clip_only, data, loop, models_double


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Mean(nn.Module):
    def __init__(self, axes: tuple[int, ...], keep: bool) -> None:
        super().__init__()
        self.axes, self.keep = axes, keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axes, keepdim=self.keep)


class Sum(Mean):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(self.axes, keepdim=self.keep) / 3


class Tokens(nn.Module):
    """(B, C, H, W) → (B, H·W, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)


class Draw:
    """A network that fits its own input, with layers, shapes and options from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.shape: tuple[int, ...] = (self.pick(1, 3, 4, 5), self.pick(6, 8, 9, 12), self.pick(5, 8, 10))
        self.input, self.layers = self.shape, list[nn.Module]()

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def network(self) -> nn.Module:
        for _ in range(self.pick(1, 2, 3)):
            for draw in (self.convolution, self.normalization, self.activation, self.pooling, self.residual):
                if draw == self.convolution or self.random.random() < 0.5:
                    draw()
        if self.random.random() < 0.4:
            self.tokens()
        self.reduction()
        self.add(nn.Flatten())
        self.add(nn.Linear(self.shape[0], CLASSES, bias=self.pick(True, False)))
        return nn.Sequential(*self.layers)

    def add(self, layer: nn.Module) -> None:
        with torch.no_grad():
            self.shape = tuple(layer(torch.randn(2, *self.shape)).shape[1:])
        self.layers.append(layer)

    def convolution(self) -> None:
        channels, *sides = self.shape
        size = min(self.pick(1, 2, 3, 3, 3, 5), *sides)
        groups = self.pick(1, 1, channels, *(n for n in (2, 3) if channels % n == 0))
        dilation = self.pick(1, 2) if 2 * (size - 1) < min(sides) else 1
        out = groups * self.pick(1, 2, 3, 7, 16)
        self.add(
            nn.Conv2d(
                channels, out, size, stride=self.pick(1, 1, 2), padding=self.pick(0, size // 2), dilation=dilation,
                groups=groups, bias=self.pick(True, False),
            )
        )  # fmt: skip

    def normalization(self) -> None:
        groups = self.pick(*(n for n in (1, 2, 3, 4) if self.shape[0] % n == 0))
        if np.prod(self.shape) // groups > 1:
            self.add(nn.GroupNorm(groups, self.shape[0]))

    def activation(self) -> None:
        self.add(self.pick(nn.ReLU(), nn.Tanh(), nn.GELU(), nn.Sigmoid()))

    def pooling(self) -> None:
        size = self.pick(2, 3)
        if min(self.shape[1:]) >= size:
            pool = self.pick(nn.AvgPool2d, nn.MaxPool2d)
            self.add(pool(size, stride=self.pick(1, 2, size), padding=self.pick(0, 1)))

    def residual(self) -> None:
        channels = self.shape[0]
        self.add(Residual(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh())))

    def tokens(self) -> None:
        self.add(Tokens())
        if self.shape[-1] > 1:
            self.add(nn.LayerNorm(self.shape[-1]))
        self.add(nn.Linear(self.shape[-1], self.pick(3, 8, 11)))
        self.add(nn.GELU())

    def reduction(self) -> None:
        """Over any axes but the batch, or none."""
        axes = [axis for axis in range(1, len(self.shape) + 1) if self.random.random() < 0.5]
        if len(axes) == len(self.shape):
            axes.pop(self.random.integers(len(axes)))  # at least one is left for the linear layer
        if axes:
            self.add(self.pick(Mean, Sum)(tuple(axes), self.pick(True, False)))


def check(seed: int) -> None:
    drawn = Draw(seed)
    model = drawn.network()
    step = compile_training(
        model, drawn.pick(1, 2, 4), input_shape=drawn.input, optimizer=SGD(0.1), precision="float64",
        privacy=clip_only(drawn.pick(0.05, 0.7), clipping=drawn.pick("flat", "flat", "normalize")),
        norm_strategy=drawn.pick("auto", "gram", "instantiate"),
    )  # fmt: skip
    count = drawn.pick(1, 3, 5)
    images, labels = data(count, drawn.input, seed)
    mask = drawn.random.random(count) < 0.7
    norms, sums = loop(model, images, labels, mask, step)
    found = step.clipped_gradient_sum(images, labels, mask)
    if mask.any():
        # a bias before a normalization has no gradient but for rounding: it is measured by the whole gradient
        whole = np.linalg.norm([np.linalg.norm(value) for value in sums.values()])
        for name, value in sums.items():
            scale = max(np.linalg.norm(value), 1e-2 * whole)
            assert np.linalg.norm(found[name] - value) <= 1e-10 * scale, (name, model)
    else:
        assert not any(value.any() for value in found.values())
    np.testing.assert_allclose(step.per_example_norms(images, labels), norms, rtol=1e-9, err_msg=str(model))


@pytest.mark.parametrize("seed", range(3))
def test_random_network_equals_the_loop_over_examples(seed: int) -> None:
    check(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 250))
def test_many_random_networks_equal_the_loop_over_examples(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize(
    "reduction",
    [Mean((1, 3), True), Mean((2,), False), Mean((-1,), True), Sum((1, 2), False)],
    ids=["1,3", "2", "-1", "sum 1,2"],
)
def test_means_and_sums_over_any_axes_have_their_gradient(reduction: Mean) -> None:
    torch.manual_seed(9)
    with torch.no_grad():
        size = reduction(torch.zeros(1, 4, 6, 5)).numel()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), reduction, nn.Flatten(), nn.Linear(size, CLASSES))
    step = compile_training(
        model, 2, input_shape=(3, 6, 5), optimizer=SGD(0.1), privacy=clip_only(), precision="float64"
    )
    images, labels = data(3, (3, 6, 5))
    norms, sums = loop(model, images, labels, np.ones(3, bool), step)
    found = step.clipped_gradient_sum(images, labels)
    assert worst([found[name] for name in sums], sums) < 1e-10
    np.testing.assert_allclose(step.per_example_norms(images, labels), norms, rtol=1e-10)


def test_gradients_that_cancel_are_formed_where_gram_would_not_see_how_short_they_are() -> None:
    """Constant maps before a norm of every channel: large terms whose sum is zero."""
    torch.manual_seed(3)
    shape = (64, 4, 4)
    model = nn.Sequential(
        nn.AvgPool2d(7, 1, 3, count_include_pad=False), nn.Conv2d(64, 64, 1), nn.GroupNorm(64, 64, eps=1),
        nn.Flatten(),
        nn.Linear(64 * 16, CLASSES),
    )  # fmt: skip
    with pytest.raises(VerificationError):
        compile_training(
            model, 2, input_shape=shape, optimizer=SGD(0.1), privacy=clip_only(), norm_strategy={"1.weight": "gram"}
        )
    step = compile_training(model, 2, input_shape=shape, optimizer=SGD(0.1), privacy=clip_only())
    assert step.strategies["1.weight"] == "instantiate"


def test_a_mean_over_the_batch_is_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x - x.mean(0, keepdim=True))

    with pytest.raises(UnsupportedOperatorError, match="mix the examples"):
        compile_training(Mixing(), 2, input_shape=(6,), optimizer=SGD(0.1), privacy=clip_only())


def test_batch_compiled_for_one_example_trains_any_number() -> None:
    """Case 25: compiled for 1 and for 16, given 0 to 17: the same sums as eager PyTorch's, padding adds nothing."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    privacy = DPSGD(noise_multiplier=0.0, max_grad_norm=1e6, expected_batch_size=8)
    for compiled_for in (1, 16):
        step = compile_training(
            model, compiled_for, input_shape=(3, 6, 6), optimizer=SGD(0.1), privacy=privacy, precision="float64"
        )
        for count in (0, 1, 2, 15, 16, 17):
            images, labels = data(count, (3, 6, 6), count)
            found = step.clipped_gradient_sum(images, labels)
            assert step.per_example_norms(images, labels).shape == (count,)
            if not count:
                assert not any(value.any() for value in found.values())
                continue
            twin = models_double(model)
            functional.cross_entropy(
                twin(torch.from_numpy(images).double()), torch.from_numpy(labels), reduction="sum"
            ).backward()
            expected = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
            assert worst([found[name] for name in expected], expected) < 1e-8  # the margin of a huge bound
