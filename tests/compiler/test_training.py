"""compile_training as users call it, against a float64 loop over the examples and against torch.optim.SGD."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from privlib import models, trusted
from privlib.compiler import DPSGD, SGD, CompileError, VerificationError, compile_training, training
from privlib.compiler.differentiate import Clipping
from privlib.trusted import TrainingError, TrainingStep
from privlib.trusted.model import InputError
from tests.compiler.test_differentiate import CLASSES, MixerBlock, Smooth, worst

BOUND = 0.7


def clip_only(bound: float = BOUND, **options: Any) -> DPSGD:
    return DPSGD(noise_multiplier=0.0, max_grad_norm=bound, expected_batch_size=8, **options)


def data(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, *shape)).astype("float32"), random.integers(0, CLASSES, count)


def loop(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, mask: np.ndarray, step: TrainingStep
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Norms and clipped sum in float64, an example at a time; its views' losses are averaged."""
    reference = models_double(model)
    trained = {name: p for name, p in reference.named_parameters() if p.requires_grad}
    sums, norms = {name: torch.zeros_like(p) for name, p in trained.items()}, []
    assert step.privacy is not None
    bound = step.privacy["max_grad_norm"] / (1 + step.clipping_margin)
    for image, label, kept in zip(images, labels, mask, strict=True):
        views = torch.from_numpy(image[None] if image.ndim == len(step.input_shape) else image).double()
        reference.zero_grad()
        each = [reference(view[None]) for view in views]
        target = torch.tensor([int(label)])
        torch.stack([functional.cross_entropy(logits, target) for logits in each]).mean().backward()
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        norm = float(sum((g**2).sum() for g in gradients.values())) ** 0.5
        factor = bound / norm if step.privacy["clipping"] == "normalize" else min(1.0, bound / norm)
        for name, g in gradients.items():
            sums[name] += g * factor * float(kept)
        norms.append(norm)
    return np.array(norms), {name: value.numpy() for name, value in sums.items()}


def models_double(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model).double().eval()


class TinyConv(nn.Module):
    """Two 3×3 convolutions of the Winograd kind, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.last = nn.Linear(8 * 4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.avg_pool2d(torch.tanh(self.two(torch.tanh(self.one(x)))), 4)
        return self.last(x.flatten(1))


class Everything(nn.Module):
    """What views meet: convolutions, one of them grouped, normalization, linear layers at one and at several places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2, groups=2)
        self.norm, self.rows, self.last = nn.GroupNorm(2, 4), nn.Linear(9, 5), nn.Linear(20, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.norm(self.grouped(torch.tanh(self.conv(x)))))
        return self.last(torch.tanh(self.rows(x.flatten(2))).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "smooth": (Smooth, (3, 16, 16)),
    "mixer": (MixerBlock, (6, 12)),
    "tiny": (TinyConv, (3, 8, 8)),
}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("smooth", "gram"), *((name, strategy) for name in ("mixer", "tiny") for strategy in ("gram", "instantiate"))],
)
def test_every_strategy_equals_the_loop_over_examples_in_float64(name: str, strategy: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    model = make()
    step = compile_training(
        model, 4, input_shape=shape, optimizer=SGD(0.1), privacy=clip_only(), precision="float64",
        norm_strategy=strategy,
    )  # fmt: skip
    images, labels = data(6, shape)  # more than a physical batch, and the second one padded
    mask = np.array([True, True, False, True, True, True])
    norms, sums = loop(model, images, labels, mask, step)
    assert (norms > BOUND).any()
    found = step.clipped_gradient_sum(images, labels, mask)
    assert worst([found[name] for name in sums], sums) < 1e-10
    np.testing.assert_allclose(step.per_example_norms(images, labels), norms, rtol=1e-10)
    if strategy == "gram":
        assert "gram" in step.strategies.values()
    if strategy == "instantiate":
        assert set(step.strategies.values()) <= {"instantiate"}


@pytest.mark.parametrize(("strategy", "clipping"), [("auto", "normalize"), ("gram", "flat"), ("instantiate", "flat")])
def test_views_of_an_example_are_averaged_before_the_norm(strategy: str, clipping: str) -> None:
    torch.manual_seed(4)
    model = Everything()
    step = compile_training(
        model, 3, input_shape=(3, 8, 8), optimizer=SGD(0.1), precision="float64", norm_strategy=strategy,
        privacy=clip_only(clipping=clipping, augmentations=3),
    )  # fmt: skip
    images, labels = data(5, (3, 3, 8, 8))
    mask = np.array([True, False, True, True, True])
    norms, sums = loop(model, images, labels, mask, step)
    found = step.clipped_gradient_sum(images, labels, mask)
    assert worst([found[name] for name in sums], sums) < 1e-10
    np.testing.assert_allclose(step.per_example_norms(images, labels), norms, rtol=1e-10)


def smooth_version(model: nn.Module) -> nn.Module:
    """ReLU → tanh, maximum → average: no gate flips under rounding."""
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            setattr(model, name, nn.Tanh())
        elif isinstance(child, nn.MaxPool2d):
            setattr(model, name, nn.AvgPool2d(child.kernel_size))
        else:
            smooth_version(child)
    return model


@pytest.mark.parametrize("name", ["vgg9", "resnet32"])
def test_float32_on_the_smooth_versions_of_the_large_networks(name: Any) -> None:
    torch.manual_seed(5)
    model = smooth_version(models.build(name))
    step = compile_training(model, 4, optimizer=SGD(0.1), privacy=clip_only())
    images, labels = data(4, (3, 32, 32))
    _, sums = loop(model, images, labels, np.ones(4, bool), step)
    found = step.clipped_gradient_sum(images, labels)
    whole = np.concatenate([sums[name].ravel() for name in sums])
    difference = np.concatenate([found[name].ravel() for name in sums]) - whole
    assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(whole)
    assert worst([found[name] for name in sums], sums) < 3e-4  # short vectors behind 30 Winograd convolutions


def small() -> nn.Module:
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, CLASSES))


def linear_step(privacy: DPSGD | None, batch_size: int = 4, model: nn.Module | None = None, **options: Any) -> Any:
    return compile_training(
        model or small(), batch_size, input_shape=(7,), optimizer=SGD(0.05, **options), privacy=privacy
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, {"weight_decay": 0.1}],
)
def test_plain_steps_are_those_of_torch_sgd(options: dict[str, Any]) -> None:
    model = small()
    step = linear_step(None, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, **options)
    for number, rate in enumerate((0.05, 0.05, 0.02)):
        images, labels = data(10, (7,), number)
        result = step.step(images, labels, learning_rate=rate)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        assert result.examples == 10 and result.step == number + 1
        assert result.mean_loss == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, value in step.parameters().items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)


def test_accumulation_is_the_sum_of_its_parts_on_the_noise_grid() -> None:
    """Case 07: 3 × 4 is 1 × 12 bit for bit where physical batches are the same; one key gives the same bits."""
    privacy = DPSGD(1.0, BOUND, 12)
    images, labels = data(12, (7,))
    results = []
    for parts in ([12], [4, 4, 4]):
        step = linear_step(privacy)
        step.use_test_key(bytes(range(32)))
        assert not step.private
        start = 0
        for part in parts:
            step.accumulate(images[start : start + part], labels[start : start + part])
            start += part
        step.update()
        results.append(step.parameters())
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])


def test_noise_comes_from_the_operating_system_and_has_the_stated_size() -> None:
    privacy = DPSGD(2.0, BOUND, 8)
    moved = []
    for _ in range(2):
        step = linear_step(privacy)
        assert step.private
        before = step.parameters()
        step.update(1.0)  # nobody was drawn: noise alone is released
        after = step.parameters()
        moved.append(np.concatenate([(before[name] - after[name]).ravel() for name in before]))
    assert (moved[0] != moved[1]).all()
    deviation = np.concatenate(moved).std()
    assert deviation == pytest.approx(2.0 * BOUND / 8, rel=0.2)  # 416 normals: 5.8 standard errors


def test_plain_step_needs_examples_and_a_usable_learning_rate() -> None:
    step = linear_step(None)
    with pytest.raises(TrainingError, match="no examples"):
        step.update()
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="learning_rate"):
            step.update(rate)
    assert step.steps == 0


def test_frozen_parameters_stay_bit_for_bit_and_count_for_nothing() -> None:
    """Case 03: weight frozen, bias trainable; batches of 7, then 4, then none."""
    torch.manual_seed(7)
    model = nn.Linear(10, CLASSES)
    model.weight.requires_grad = False
    step = compile_training(model, 4, input_shape=(10,), optimizer=SGD(0.1), privacy=clip_only())
    frozen = step.parameters()["weight"]
    noisy = compile_training(model, 4, input_shape=(10,), optimizer=SGD(0.1), privacy=DPSGD(1.0, BOUND, 8))
    for number, count in enumerate((7, 4, 0)):
        images, labels = data(count, (10,), number)
        norms, sums = loop(model, images, labels, np.ones(count, bool), step)
        np.testing.assert_allclose(step.per_example_norms(images, labels), norms, rtol=1e-5)
        assert list(step.clipped_gradient_sum(images, labels)) == ["bias"]
        if count:
            np.testing.assert_allclose(step.clipped_gradient_sum(images, labels)["bias"], sums["bias"], rtol=1e-4)
        step.step(images, labels)
        noisy.step(images, labels)
        with torch.no_grad():
            model.bias.sub_(torch.from_numpy(sums["bias"]).float() * 0.1 / 8)
        np.testing.assert_allclose(step.parameters()["bias"], model.bias.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(step.parameters()["weight"], frozen)
    np.testing.assert_array_equal(noisy.parameters()["weight"], frozen)


def test_an_example_that_is_not_finite_contributes_nothing() -> None:
    step = linear_step(clip_only())
    images, labels = data(4, (7,))
    expected = step.clipped_gradient_sum(images, labels, np.array([True, False, True, True]))
    for poison in (np.nan, np.inf, 3e38):
        images[1] = poison
        found = step.clipped_gradient_sum(images, labels)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    step.step(images, labels)
    assert all(np.isfinite(value).all() for value in step.parameters().values())


def test_a_gradient_of_zero_and_one_at_the_bound_pass_unchanged() -> None:
    model = small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_parameter("2.bias")[:] = torch.tensor(
            [1000.0, *[0.0] * (CLASSES - 1)]
        )  # the right class, with certainty
    images, labels = data(4, (7,))
    labels[:] = 0
    for clipping in ("flat", "normalize"):
        step = linear_step(clip_only(clipping=clipping), model=model)
        assert all(not value.any() for value in step.clipped_gradient_sum(images, labels).values())
    model = small()
    step = linear_step(clip_only(), model=model)
    norm = float(step.per_example_norms(images[:1], labels[:1])[0])
    exact = linear_step(clip_only(norm * (1 + 1e-3) * (1 + step.clipping_margin)), model=model)
    whole = sum(float((v**2).sum()) for v in exact.clipped_gradient_sum(images[:1], labels[:1]).values()) ** 0.5
    assert whole == pytest.approx(norm, rel=1e-5)
    below = linear_step(clip_only(norm), model=model)
    clipped = sum(float((v**2).sum()) for v in below.clipped_gradient_sum(images[:1], labels[:1]).values()) ** 0.5
    assert norm * (1 - 2 * step.clipping_margin) < clipped <= norm


def test_what_is_summed_for_an_example_never_exceeds_the_bound() -> None:
    """Large inputs, small ones, constant ones whose gradients cancel; one example at a time."""
    random = np.random.default_rng(11)
    model, shape = TinyConv(), (3, 8, 8)
    for strategy in ("gram", "instantiate"):
        step = compile_training(
            model, 1, input_shape=shape, optimizer=SGD(0.1), privacy=clip_only(1e-3), norm_strategy=strategy
        )
        for scale in (1e-3, 1.0, 1e3, 1e6):
            for image in (random.standard_normal(shape) * scale, np.full(shape, scale)):
                found = step.clipped_gradient_sum(image[None].astype("float32"), np.array([3]))
                length = sum(float((value**2).sum()) for value in found.values()) ** 0.5
                assert length <= 1e-3, (strategy, scale)


def test_operators_do_not_depend_on_the_batch() -> None:
    counts = []
    for batch_size in (2, 12):
        step = compile_training(TinyConv(), batch_size, input_shape=(3, 8, 8), optimizer=SGD(0.1), privacy=clip_only())
        counts.append(step.ir("lowered").script().count("R.call_tir"))
    assert counts[0] == counts[1] > 10
    with pytest.raises(CompileError, match="lowered"):
        step.ir("nonsense")


def test_wrong_inputs_are_refused_before_anything_is_added() -> None:
    step = linear_step(clip_only())
    images, labels = data(4, (7,))
    wrong: list[tuple[Any, ...]] = [
        (images[:, :6], labels), (images.astype("float16"), labels), (images.tolist(), labels),
        (images, labels[:3]), (images, labels.astype("int32")), (images, labels - 100), (images, labels + 100),
        (images, labels, np.ones(4)), (images, labels, np.ones(3, bool)),
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(InputError):
            step.accumulate(*arguments)
    step.update()
    for name, value in step.parameters().items():
        np.testing.assert_array_equal(value, small().state_dict()[name].numpy())


def test_parameters_go_back_into_the_model_and_wrong_ones_are_refused() -> None:
    model = small()
    step = linear_step(DPSGD(1.0, BOUND, 8), model=model)
    step.step(*data(4, (7,)))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in step.parameters().items()})
    other = linear_step(None)
    other.load_parameters(model.state_dict())
    for name, value in step.parameters().items():
        np.testing.assert_array_equal(other.parameters()[name], value)
    good = step.parameters()
    for bad in ({}, {**good, "more": np.zeros(1)}, {**good, "0.bias": np.zeros(3, "float32")}):
        with pytest.raises(InputError):
            step.load_parameters(bad)
    with pytest.raises(InputError):
        step.load_parameters({**good, "0.bias": np.array(["a"] * 11)})


def test_an_exported_step_goes_on_without_pytorch(tmp_path: Path) -> None:
    images, labels = data(6, (7,))
    step = linear_step(clip_only(), momentum=0.9)
    step.step(images, labels)
    step.export(tmp_path / "step")
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    script = f"""
import sys; sys.modules["torch"] = None
import json, numpy as np
from privlib import trusted
data = np.load({str(tmp_path / "data.npz")!r})
step = trusted.load({str(tmp_path / "step")!r})
sums = step.clipped_gradient_sum(data["images"], data["labels"])
print(json.dumps({{name: value.tolist() for name, value in sums.items()}}))
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    expected = step.clipped_gradient_sum(images, labels)
    for name, value in json.loads(output).items():
        np.testing.assert_array_equal(np.array(value), expected[name])
    assert isinstance(trusted.load(tmp_path / "step"), TrainingStep)


@pytest.mark.parametrize(
    ("name", "batch_size"), [("small_cnn", 512), pytest.param("resnet32", 32, marks=pytest.mark.soak)]
)
def test_planned_memory_is_what_the_process_uses(tmp_path: Path, name: models.Name, batch_size: int) -> None:
    """Peak resident memory of a process that loads and steps, beyond what it had before, against `.memory`."""
    step = compile_training(models.build(name), batch_size, optimizer=SGD(0.1), privacy=clip_only())
    step.export(tmp_path / "step")
    script = f"""
import sys; sys.modules["torch"] = None
import numpy as np
from pathlib import Path
from privlib import trusted
from privlib.trusted.runtime import tvm_runtime, use_all_cores
def status(key):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
    return int(line.split()[1]) * 1024
tvm_runtime(); use_all_cores()
images, labels = np.zeros(({batch_size}, 3, 32, 32), "float32"), np.zeros({batch_size}, "int64")
before = status("VmRSS:")
step = trusted.load({str(tmp_path / "step")!r})
for _ in range(2): step.step(images, labels)
print(status("VmHWM:") - before)
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    used = int(output)
    assert 0.8 * step.memory.peak_bytes < used < 1.3 * step.memory.peak_bytes + (16 << 20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), r"^1: BatchNorm.*GroupNorm"),
        (lambda: nn.Sequential(nn.Linear(7, 4), nn.Dropout(0.1), nn.Linear(4, 3)), r"^1: dropout"),
        (lambda: nn.Sequential(nn.Linear(7, 4), nn.GroupNorm(4, 4), nn.Linear(4, 3)), "single value"),
        (lambda: _all_frozen(nn.Linear(7, 3)), "no parameter is trainable"),
    ],
)
def test_what_cannot_be_trained_per_example_is_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_training(make(), 2, input_shape=(7,), optimizer=SGD(0.1), privacy=clip_only())


def _all_frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


PLACES = torch.arange(CLASSES)
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "smoothed": lambda z, y: functional.cross_entropy(z, y, reduction="none", label_smoothing=0.1),
    "squared": lambda z, y: ((z - (y[:, None] == PLACES).to(z.dtype)) ** 2).mean(1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_given_as_a_function(name: str) -> None:
    model, loss = small(), LOSSES[name]
    images, labels = data(5, (7,))
    for precision, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        step = compile_training(
            model, 4, input_shape=(7,), loss=loss, optimizer=SGD(0.1), privacy=clip_only(1e6), precision=precision
        )
        reference = models_double(model)
        losses = loss(reference(torch.from_numpy(images).double()), torch.from_numpy(labels))
        losses.sum().backward()
        found = step.clipped_gradient_sum(images, labels)
        for key, parameter in reference.named_parameters():
            assert parameter.grad is not None
            assert np.linalg.norm(found[key] - parameter.grad.numpy()) < tolerance * parameter.grad.norm().item()
        assert step.mean_loss(images, labels) == pytest.approx(losses.mean().item(), rel=tolerance)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (functional.cross_entropy, r"shape \(\) for 4 examples.*reduction='none'"),
        (lambda z, y: functional.cross_entropy(z, y, reduction="none") - z.mean(), "other examples"),
        (lambda z, y: functional.multi_margin_loss(z, y, reduction="none"), "cannot be imported"),
        ("mse", "'cross_entropy' or a function"),
    ],
)
def test_losses_that_are_not_per_example_are_refused(loss: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_training(small(), 4, input_shape=(7,), loss=loss, optimizer=SGD(0.1), privacy=clip_only())


@pytest.mark.parametrize(
    "options",
    [
        {"noise_multiplier": -1.0}, {"noise_multiplier": float("nan")}, {"max_grad_norm": 0.0},
        {"expected_batch_size": float("inf")}, {"clipping": "some"}, {"augmentations": 0},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    good = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 8.0}
    with pytest.raises(CompileError, match=next(iter(options))):
        DPSGD(**{**good, **options})
    with pytest.raises(CompileError, match="learning_rate"):
        SGD(-0.1)
    with pytest.raises(CompileError, match="Nesterov"):
        SGD(0.1, nesterov=True)


def test_strategies_named_wrongly_are_refused() -> None:
    for override, message in (("ghost", "goodfellow"), ({"9.weight": "gram"}, r"9\.weight")):
        with pytest.raises(CompileError, match=message):
            compile_training(
                small(), 2, input_shape=(7,), optimizer=SGD(0.1), privacy=clip_only(), norm_strategy=override
            )
    with pytest.raises(CompileError, match="does not apply"):
        compile_training(
            TinyConv(), 2, input_shape=(3, 8, 8), optimizer=SGD(0.1), privacy=clip_only(),
            norm_strategy={"one.weight": "goodfellow"},
        )  # fmt: skip


def test_a_step_that_disagrees_with_pytorch_is_not_handed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "Clipping", lambda kind, bound: Clipping(kind, 3 * bound))
    for _ in range(2):  # the second time as well: nothing wrong stays in the cache
        with pytest.raises(VerificationError, match="gradient sum of"):
            linear_step(clip_only(1e-3))
