"""What cannot be compiled or run is refused: by name, with its place, and with what to do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privlib.compiler import (
    CompileError,
    UnsupportedOperatorError,
    compile_inference,
)
from privlib.compiler.target import TargetError
from privlib.trusted import CompiledModel
from privlib.trusted.model import InputError
from tests.compiler.model_harness import Formula, batch, conv


def test_a_refusal_leaves_the_training_flags_as_well() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)).train()
    with pytest.raises(UnsupportedOperatorError):
        compile_inference(model, 2, (4,))
    assert all(module.training for module in model.modules())


def test_what_cannot_be_compiled_is_named_with_its_place() -> None:
    inner = nn.Sequential(conv(), nn.Softmax(1))
    with pytest.raises(UnsupportedOperatorError, match=r"softmax.*'0\.1' \(Softmax\)"):
        compile_inference(nn.Sequential(inner, nn.ReLU()), 2, (3, 4, 4))


REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "transposed": (nn.ConvTranspose2d(8, 4, 2), (8, 4, 4), "transposed"),
    "one axis": (nn.Conv1d(8, 4, 3), (8, 9), "two-dimensional"),
    "three axes": (nn.Conv3d(2, 4, 3), (2, 5, 5, 5), "two-dimensional"),
    "ceil_mode": (nn.MaxPool2d(2, ceil_mode=True), (8, 5, 5), "ceil_mode"),
    "ceil_mode of an average": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (8, 6, 6), "ceil_mode"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), (8, 4, 4), "divisor_override"),
    "adaptive": (nn.AdaptiveAvgPool2d(2), (4, 4), "of 3 axes"),
    "clipping": (nn.Hardtanh(), (8,), "ReLU6"),
    "layer norm over two axes": (nn.LayerNorm((5, 6)), (5, 6), "last axis"),
    "group norm of sequences": (nn.GroupNorm(4, 8), (8, 6), "group norm of 3 axes"),
    "batch norm of sequences": (nn.BatchNorm1d(8), (8, 6), "batch norm of 3 axes"),
    "statistics of the batch": (nn.BatchNorm2d(8, track_running_stats=False), (8, 4, 4), "batch_norm"),
    "indices": (Formula(lambda s, x: F.max_pool2d(x, 2, return_indices=True)[1]), (3, 4, 4), "indices"),
    "reflected padding": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 5, 5), "not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    module, shape, message = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError, match=message) as raised:
        compile_inference(nn.Sequential(nn.Identity(), module), 2, shape)
    assert f"'1' ({type(module).__name__})" in str(raised.value) and "aten" in str(raised.value)


@pytest.mark.parametrize(
    "outputs",
    [lambda s, x: (x, s.m[0](x)), lambda s, x: {"logits": s.m[0](x)}, lambda s, x: [s.m[0](x)]],
    ids=["pair", "dictionary", "list"],
)
def test_models_that_do_not_return_one_tensor_are_refused(outputs: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(CompileError, match="return one"):
        compile_inference(Formula(outputs, conv()), 2, (3, 4, 4))


def test_models_of_another_type_are_refused() -> None:
    with pytest.raises(CompileError, match=r"1\.weight is torch.float64.*model.float\(\)"):
        compile_inference(nn.Sequential(nn.Identity(), nn.Linear(4, 3).double()), 2, (4,))


def test_control_flow_on_values_is_refused() -> None:
    with pytest.raises(CompileError, match="torch.export refused"):
        compile_inference(Formula(lambda s, x: x if x.sum() > 0 else -x), 2, (4,))


@pytest.mark.parametrize(("size", "shape"), [(0, (4,)), (-1, (4,)), (2, (0,)), (2, (-4,))])
def test_sizes_that_are_not_positive_are_refused(size: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(CompileError, match="positive"):
        compile_inference(nn.Linear(4, 3), size, shape)


@pytest.mark.parametrize(
    "mixing",
    [lambda s, x: x - x.mean(0, keepdim=True), lambda s, x: s.m[0](x) @ s.m[0](x).t(), lambda s, x: x.mean(0)],
    ids=["mean", "product", "reduced"],
)
def test_models_that_mix_the_examples_of_a_batch_are_refused(mixing: Callable[[Any, Tensor], Tensor]) -> None:
    """They cannot be cut into batches of another size."""
    with pytest.raises(CompileError):
        compile_inference(Formula(mixing, nn.Linear(6, 6)), 3, (6,))


def test_models_for_one_batch_size_only_are_refused() -> None:
    with pytest.raises(CompileError, match="batch size 3 only"):
        compile_inference(Formula(lambda s, x: x.view(3, 2, 3)), 3, (6,))


@pytest.mark.parametrize("target", ["x86-64-v2", "", "skylake-avx512", "llvm"])
def test_unknown_targets_are_refused(target: str) -> None:
    with pytest.raises(TargetError, match="x86-64-v4, x86-64-v3"):
        compile_inference(nn.Linear(4, 3), 2, (4,), target)


@pytest.fixture(scope="module")
def linear() -> CompiledModel:
    return compile_inference(nn.Linear(4, 3), 2, (4,))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 5), np.float32),
        np.zeros((2, 4), np.float64),
        np.zeros((2, 4), ">f4"),
        np.zeros((2, 2, 2), np.float32),
        np.zeros(4, np.float32),
        np.float32(0),
        [[0.0] * 4],
        torch.zeros(2, 4),
        None,
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')} {getattr(x, 'shape', '')}",
)
def test_wrong_inputs_are_refused(linear: CompiledModel, x: Any) -> None:
    with pytest.raises(InputError, match=r"float32 \(B, 4\)"):
        linear.run(x)


@pytest.mark.parametrize("arrange", [lambda x: x[::2], lambda x: x[::-1], np.asfortranarray, lambda x: x[:, ::-1]])
def test_strided_inputs_are_read_right(linear: CompiledModel, arrange: Callable[[np.ndarray], np.ndarray]) -> None:
    x = arrange(batch(6, (4,)))
    np.testing.assert_array_equal(linear.run(x), linear.run(np.ascontiguousarray(x)))


def test_read_only_inputs_are_accepted_and_results_are_kept(linear: CompiledModel) -> None:
    x = batch(2, (4,))
    x.flags.writeable = False
    first = linear.run(x)
    kept = first.copy()
    linear.run(batch(2, (4,), seed=9))
    np.testing.assert_array_equal(first, kept)
