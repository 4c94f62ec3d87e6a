"""The clipped gradient sum of whole networks against a float64 loop over the examples, one backward pass each."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm import relax

from privlib import models
from privlib.compiler import pipeline
from privlib.compiler.canonicalize import canonicalize
from privlib.compiler.differentiate import Clipping, differentiate
from privlib.compiler.errors import CompileError
from privlib.compiler.fuse import fuse
from privlib.compiler.importer import Imported, import_model
from privlib.compiler.lower import lower
from privlib.compiler.target import Machine, machine
from privlib.trusted.runtime import use_all_cores
from tests.compiler.model_harness import Formula

CLASSES = 10


class Hasty(Machine):
    """The same kernels in half of LLVM's time: `Smooth` and every kernel's own test have them as they are shipped."""

    def tvm_target(self) -> tvm.target.Target:
        return tvm.target.Target({**super().tvm_target().export(), "opt-level": 1})


def step(
    imported: Imported,
    clipping: Clipping,
    precision: str = "float64",
    frozen: tuple[str, ...] = (),
    cpu: Machine | None = None,
) -> Callable[..., list[np.ndarray]]:
    """Compile accumulate: (x, labels, mask) → [losses, squared norms, factors, sums…]."""
    cpu = cpu or machine()
    graph = differentiate(fuse(canonicalize(imported.module, precision)), frozen, clipping)
    planned = pipeline.plan(pipeline.legalize(lower(graph, cpu)))
    use_all_cores()
    run = relax.VirtualMachine(pipeline.build(planned, cpu), tvm.cpu())["main"]
    parameters = [tvm.runtime.tensor(array.astype(precision)) for array in imported.parameters.values()]

    def call(*inputs: np.ndarray) -> list[np.ndarray]:
        return [result.numpy() for result in run(*map(tvm.runtime.tensor, inputs), *parameters)]

    return call


def loop(model: nn.Module, inputs: list[np.ndarray], bound: float) -> tuple[Any, Any, dict[str, Any]]:
    """The reference: float64, one example at a time."""
    model, (x, y, mask) = model.double(), inputs
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    losses, squares, sums = [], [], {name: torch.zeros_like(p) for name, p in trained.items()}
    for i in range(len(x)):
        model.zero_grad()
        output = model(torch.from_numpy(x[i : i + 1]).double())
        loss = functional.cross_entropy(output, torch.from_numpy(y[i : i + 1]))
        loss.backward()
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        square = sum((g**2).sum().item() for g in gradients.values())
        for name, g in gradients.items():
            sums[name] += g * (min(1.0, bound / square**0.5) if square else 1.0) * float(mask[i])
        losses.append(loss.item())
        squares.append(square)
    return np.array(losses), np.array(squares), {name: value.numpy() for name, value in sums.items()}


def batch(size: int, shape: tuple[int, ...], dtype: str, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.ones(size, dtype)
    mask[-1] = 0.0
    return [random.standard_normal((size, *shape)).astype(dtype), random.integers(0, CLASSES, size), mask]


def worst(found: list[np.ndarray], expected: dict[str, np.ndarray]) -> float:
    errors = [
        np.linalg.norm(one - two) / max(float(np.linalg.norm(two)), 1e-30)
        for one, two in zip(found, expected.values(), strict=True)
    ]
    return float(max(errors))


class Smooth(nn.Module):
    """Every smooth layer once: tanh, GELU, average pooling, group norm, a residual, strides, groups, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.strided = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 12, (1, 3), padding=(0, 2), dilation=(1, 2), groups=3)
        self.point = nn.Conv2d(12, 12, 1)
        self.hidden, self.last = nn.Linear(12 * 4 * 4, 20), nn.Linear(20, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.avg_pool2d(torch.tanh(self.norm(self.first(x))), 3, 2, 1)
        x = torch.sigmoid(self.grouped(self.depthwise(self.strided(x))))
        x = functional.gelu(x + self.point(x))
        return self.last(functional.gelu(self.hidden(x.flatten(1)), approximate="tanh"))


class MixerBlock(nn.Module):
    """A ViT-style block: linear layers at several positions, layer norm, mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.head = nn.Linear(12 * 6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(functional.gelu(self.up(self.norm(x))))
        return self.head(x.flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "smooth": (Smooth, (3, 16, 16)),
    "mixer": (MixerBlock, (6, 12)),
    "dense": (lambda: nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, CLASSES)), (7,)),
    "numbers": (
        lambda: nn.Sequential(nn.Linear(7, 11), Formula(lambda _, x: (0.5 - 3 * x) / 2 + 1), nn.Linear(11, CLASSES)),
        (7,),
    ),
    "many inputs, few outputs": (lambda: nn.Linear(1100, CLASSES), (1100,)),
}


@cache
def compiled(name: str, precision: str) -> tuple[nn.Module, Callable[..., list[np.ndarray]]]:
    """One of `NETWORKS` and its step, for five examples and a bound of 0.7."""
    torch.manual_seed(1)
    build, shape = NETWORKS[name]
    model = build()
    return model, step(import_model(model, 5, shape), Clipping("flat", 0.7), precision)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_clipped_sum_equals_the_loop_over_examples(name: str, precision: str, tolerance: float) -> None:
    model, run = compiled(name, precision)
    inputs = batch(5, NETWORKS[name][1], precision)
    losses, squares, factors, *sums = run(*inputs)
    expected_losses, expected_squares, expected = loop(model, inputs, 0.7)
    np.testing.assert_allclose(losses, expected_losses, rtol=10 * tolerance)
    np.testing.assert_allclose(squares, expected_squares, rtol=10 * tolerance)
    assert factors[-1] == 0.0
    assert worst(sums, expected) < tolerance


@pytest.mark.parametrize(
    "name", ["vgg9", *(pytest.param(name, marks=pytest.mark.soak) for name in ("resnet32", "mobilenet"))]
)
def test_networks_of_the_talk_equal_the_loop_in_float64(name: models.Name) -> None:
    torch.manual_seed(2)
    model = models.build(name, norm="group" if name == "mobilenet" else None)
    inputs = batch(2, (3, 32, 32), "float64")
    inputs[2][:] = 1.0
    run = step(import_model(model, 2, (3, 32, 32)), Clipping("flat", 1.0), cpu=Hasty(**vars(machine())))
    _, squares, _, *sums = run(*inputs)
    _, expected_squares, expected = loop(model, inputs, 1.0)
    np.testing.assert_allclose(squares, expected_squares, rtol=1e-10)
    assert worst(sums, expected) < 1e-10


def test_frozen_parameters_get_no_sum_and_count_for_no_norm() -> None:
    """Case 03: a frozen weight with a trainable bias."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    next(model.parameters()).requires_grad_(False)
    inputs = batch(7, (10,), "float64")
    imported = import_model(model, 7, (10,))
    (frozen,) = [str(p.name) for p in imported.module["main"].params if str(p.name) == "0.weight"]
    _, squares, _, *sums = step(imported, Clipping("flat", 0.3), frozen=(frozen,))(*inputs)
    _, expected_squares, expected = loop(model, inputs, 0.3)
    assert len(sums) == 3 and worst(sums, expected) < 1e-10
    np.testing.assert_allclose(squares, expected_squares, rtol=1e-10)


def test_example_that_is_not_finite_contributes_exactly_zero() -> None:
    x, y, mask = batch(5, (3, 16, 16), "float32")
    _, call = compiled("smooth", "float32")
    mask[:] = (1.0, 0.0, 1.0, 1.0, 1.0)
    _, _, _, *masked = call(x, y, mask)
    x[1], mask[1] = np.nan, 1.0
    _, _, factors, *poisoned = call(x, y, mask)
    assert factors[1] == 0.0
    for one, two in zip(poisoned, masked, strict=True):
        np.testing.assert_array_equal(one, two)


def test_normalize_gives_every_example_the_same_norm() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(7, CLASSES))
    inputs = batch(1, (7,), "float64")
    inputs[2][:] = 1.0
    *_, weight, bias = step(import_model(model, 1, (7,)), Clipping("normalize", 2.5))(*inputs)
    assert np.sqrt((weight**2).sum() + (bias**2).sum()) == pytest.approx(2.5, rel=1e-12)


def test_number_of_operators_does_not_depend_on_the_batch() -> None:
    def operators(size: int) -> int:
        graph = differentiate(fuse(canonicalize(import_model(Smooth(), size, (3, 16, 16)).module)))
        return sum(len(block.bindings) for block in graph["main"].body.blocks)

    assert operators(2) == operators(64)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, CLASSES), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class Mixed(nn.Module):
    """Subtracts the mean over the batch: no example's gradient is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x - x.mean(0, keepdim=True))


class Turned(nn.Module):
    """Positions before examples: rows of the flattened matrix are no longer example by example."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.layer(x.transpose(0, 1).reshape(-1, 8))
        return self.head(rows.reshape(2, -1, 8).transpose(0, 1).flatten(1))


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.tanh(self.conv(x))).flatten(1))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Tied(), (8,), r"layer\.weight is used in two places"),
        (Unused(), (8,), r"idle\.weight.*does not depend on them"),
        (Normalized(), (3, 8, 8), "GroupNorm"),
        (Mixed(), (8,), "mix the examples"),
        (Turned(), (2, 8), "mix the examples"),
    ],
)
def test_what_has_no_per_example_gradient_is_refused_by_name(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        differentiate(fuse(canonicalize(import_model(model, 2, shape).module)))
