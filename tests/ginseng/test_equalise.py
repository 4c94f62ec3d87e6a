"""Cross-layer equalisation: the function stays, the ranges meet, int8 gains; what is shared is left alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from privlib.ginseng import equalise as module
from privlib.ginseng.equalise import equalise
from privlib.ginseng.int8 import QuantisedModel
from privlib.ginseng.quantise import quantise

IMAGES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


def uneven() -> nn.Sequential:
    """Separable layers whose depthwise channels differ by orders of magnitude, as after folding BatchNorm."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    scales = torch.logspace(-2.5, 2.5, 16)
    with torch.no_grad():
        for index in (0, 2):
            layer = model[index]
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            order = torch.randperm(16)
            layer.weight *= scales[order].reshape(-1, 1, 1, 1)
            layer.bias *= scales[order]
        after = model[5]
        assert isinstance(after, nn.Conv2d)
        after.weight /= scales[order].reshape(1, -1, 1, 1)
    return model.eval()


def test_the_function_stays_and_neighbours_have_one_range() -> None:
    graph = fx.symbolic_trace(uneven())
    before = graph(torch.from_numpy(IMAGES)).detach()
    equalise(graph)
    after = graph(torch.from_numpy(IMAGES)).detach()
    assert float((after - before).norm() / before.norm()) < 1e-5  # float32 rounding
    pairs = list(module._pairs(graph))
    assert len(pairs) == 3
    for first, second in pairs:
        made = first.weight.flatten(1).abs().amax(1)  # type: ignore[operator]
        read = module._reading(second).flatten(1).abs().amax(1)
        torch.testing.assert_close(made, read, rtol=0.02, atol=0)  # ROUNDS come this near


def disagreement(quantised: QuantisedModel, model: nn.Module) -> float:
    with torch.inference_mode():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    found = quantised.dequantise(quantised.reference(quantised.quantise_images(IMAGES)))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_int8_needs_it_where_channels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    model = uneven()
    with_it = disagreement(quantise(model, IMAGES), model)
    monkeypatch.setattr(module, "ROUNDS", 0)
    without = disagreement(quantise(model, IMAGES), model)
    assert with_it < 0.05 and without > 3 * with_it


def test_the_callers_model_is_left_alone() -> None:
    model = uneven()
    before = [value.clone() for value in model.parameters()]
    quantise(model, IMAGES)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


class Twice(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.middle(torch.relu(self.first(x))))
        return self.last(torch.relu(self.middle(x)))


class Tied(Twice):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.last.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


class Branching(Twice):
    """A value that two layers read."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.middle(y) + self.last(y)


@pytest.mark.parametrize("make", [Twice, Tied, Branching])
def test_what_is_shared_is_left_alone(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    graph = fx.symbolic_trace(make().eval())
    before = graph(torch.from_numpy(IMAGES)).detach()
    equalise(graph)
    torch.testing.assert_close(graph(torch.from_numpy(IMAGES)).detach(), before)
    assert list(module._pairs(graph)) == []


def test_dead_channels_stay_dead() -> None:
    model = uneven()
    with torch.no_grad():
        next(model.parameters())[3] = 0
    graph = fx.symbolic_trace(model)
    before = graph(torch.from_numpy(IMAGES)).detach()
    equalise(graph)
    after = graph(torch.from_numpy(IMAGES)).detach()
    assert bool(after.isfinite().all()) and float((after - before).norm() / before.norm()) < 1e-5
