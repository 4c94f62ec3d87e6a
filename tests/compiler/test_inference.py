"""compile_inference on whole models: the same logits as eager PyTorch, for any batch."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privlib import data, models, trusted
from privlib.compiler import CompileError, compile_inference, inference_stages
from privlib.trusted.model import CompiledModel, InputError
from tests.compiler.model_harness import Formula, batch, conv, distance, eager, randomize

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small_cnn": lambda: models.build("small_cnn"),
    "vgg9": lambda: models.build("vgg9"),
    "resnet32": lambda: models.build("resnet32"),
    "mobilenet": lambda: models.build("mobilenet", norm="batch"),
    "mobilenet with group norm": lambda: models.build("mobilenet", norm="group"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_talks_networks_agree_with_eager_pytorch(name: str) -> None:
    torch.manual_seed(3)
    model = randomize(NETWORKS[name]())
    x = batch(5, (3, 32, 32))  # a whole batch and a padded one
    assert distance(compile_inference(model, 4).run(x), eager(model, x)) < 1e-4


@pytest.mark.parametrize("compiled_for", [1, 16])
def test_any_batch_runs_whatever_it_was_compiled_for(compiled_for: int) -> None:
    """Case 25: a batch size frozen at export, and a limit at 16."""
    torch.manual_seed(0)
    model = randomize(models.build("small_cnn"))
    compiled = compile_inference(model, compiled_for)
    for size in (0, 1, 2, 15, 16, 17):
        x = batch(size, (3, 32, 32))
        found = compiled.run(x)
        assert found.shape == (size, 10)
        np.testing.assert_allclose(found, eager(model, x), rtol=1e-4, atol=1e-5)


def test_padding_does_not_depend_on_what_ran_before() -> None:
    torch.manual_seed(0)
    compiled = compile_inference(models.build("small_cnn"), 16)
    x = batch(3, (3, 32, 32))
    first = compiled.run(x)
    compiled.run(np.full((16, 3, 32, 32), np.nan, np.float32))
    np.testing.assert_array_equal(compiled.run(x), first)


def test_pixels_are_normalised_inside_and_only_where_the_model_says_how(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build("small_cnn")
    compiled = compile_inference(model, 4, pixels=data.PIXELS)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")
    pixels, floats = np.ascontiguousarray(images.transpose(0, 3, 1, 2)), data.preprocess(images)
    np.testing.assert_allclose(compiled.run(pixels), compiled.run(floats), rtol=1e-5, atol=1e-5)
    loaded = trusted.load(compiled.export(tmp_path / "model.privlib"))
    assert isinstance(loaded, CompiledModel) and loaded.pixels == data.PIXELS
    np.testing.assert_array_equal(loaded.run(pixels), compiled.run(pixels))
    with pytest.raises(InputError, match="expected a NumPy array float32 "):
        compile_inference(model, 4).run(pixels)
    with pytest.raises(CompileError, match="two finite numbers"):
        compile_inference(model, 4, pixels=(float("nan"), 0.0))


@pytest.mark.parametrize("counted", [True, False])
def test_average_pooling_counts_padding_as_pytorch_does(counted: bool) -> None:
    """Case 21: ones give 4/9 in a corner, 6/9 on an edge, 1 inside; or 1 everywhere if padding is not counted."""
    compiled = compile_inference(nn.AvgPool2d(3, 1, 1, count_include_pad=counted), 1, (1, 4, 4))
    found = compiled.run(np.ones((1, 1, 4, 4), np.float32))[0, 0]
    expected = np.ones((4, 4))
    if counted:
        expected[[0, -1], :] *= 6 / 9
        expected[:, [0, -1]] *= 6 / 9
        expected[np.ix_([0, -1], [0, -1])] = 4 / 9
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_product_is_not_written_over_a_live_view() -> None:
    """Case 23."""

    def concatenate(_: Any, x: Tensor) -> Tensor:
        u = x[:, None]
        return torch.cat([u * u, u], 1)

    compiled = compile_inference(Formula(concatenate), 4, ())
    x = np.array([1, 2, 3, 4], np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(compiled.run(x), [[1, 1], [4, 2], [9, 3], [16, 4]])
        np.testing.assert_array_equal(x, [1, 2, 3, 4])


def test_compiling_leaves_the_model_as_it_was() -> None:
    """Mixed training flags, weights, statistics, gradients and the random state; the result is that of evaluation."""
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 3))
    randomize(model).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    x = batch(2, (3, 4, 4))
    found = compile_inference(model, 2, (3, 4, 4)).run(x)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    np.testing.assert_allclose(found, eager(model, x), rtol=1e-4, atol=1e-5)


def test_stages_are_shown_in_order_and_without_running_anything() -> None:
    stages = inference_stages(models.build("small_cnn"), 2)
    names = list(stages)
    assert names[0] == "imported" and names[-1] == "planned"
    assert "relax.nn.conv2d" in {str(op) for op in called(stages["imported"])}
    assert any(str(op).startswith("privlib.") for op in called(stages["fused"]))
    assert not any(str(op).startswith("privlib.") for op in called(stages["planned"]))
    assert "winograd" in stages["lowered"].script() or "direct" in stages["lowered"].script()


def called(module: Any) -> list[Any]:
    blocks = module["main"].body.blocks
    values = [binding.value for block in blocks for binding in block.bindings]
    return [value.op.name for value in values if hasattr(value, "op") and hasattr(value.op, "name")]


def test_compiling_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_inference(nn.Sequential(conv(), nn.ReLU()), 1, (3, 4, 4))
