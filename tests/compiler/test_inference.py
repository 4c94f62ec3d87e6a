"""compile_inference on whole models: the same logits as eager PyTorch, for any batch, or a refusal that says why."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from privlib import models
from privlib.compiler import (
    CompileError,
    UnsupportedOperatorError,
    VerificationError,
    compile_inference,
    inference_stages,
)
from privlib.compiler import inference as inference_module
from privlib.compiler.kernels import matmul
from privlib.compiler.target import TargetError
from privlib.trusted import CompiledModel
from privlib.trusted.model import InputError


class Formula(nn.Module):
    """A function of the modules `m`, the parameters `p` and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], *modules: nn.Module, parameter: Tensor | None = None):
        super().__init__()
        self.function, self.m = function, nn.ModuleList(modules)
        if parameter is not None:
            self.p = nn.Parameter(parameter)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and biases that are not what they start with, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2, generator=generator)
        if (
            isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm | nn.BatchNorm1d)
            and module.weight is not None
        ):
            nn.init.normal_(module.weight, 1, 0.3, generator=generator)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.normal_(bias, 0, 0.3, generator=generator)
    return model


def eager(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Logits of PyTorch in evaluation mode and float32; the model's flags are restored."""
    flags = {module: module.training for module in model.modules()}
    with torch.no_grad():
        result = model.eval()(torch.from_numpy(x)).numpy()
    for module, training in flags.items():
        module.training = training
    return result


def batch(size: int, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, *shape)).astype(np.float32)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


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


def conv(inputs: int = 3, outputs: int = 8, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def depthwise() -> nn.Conv2d:
    return conv(8, 8, groups=8)


def gate(s: Any, x: Tensor) -> Tensor:
    y = s.m[0](x)
    return y * torch.sigmoid(s.m[1](y.mean((2, 3), keepdim=True)))


# What an epilogue, a layout or an alias can get wrong: (model, input shape).
GRAPHS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution as output": (lambda: conv(), (3, 5, 6)),
    "no parameters": (lambda: nn.ReLU(), (6,)),
    "identity": (lambda: nn.Identity(), (3, 4, 4)),
    "one pixel": (lambda: nn.Conv2d(3, 5, 1), (3, 1, 1)),
    "scalar from the right": (lambda: Formula(lambda s, x: s.m[0](x) + 1.5, conv()), (3, 4, 4)),
    "scalar minus": (lambda: Formula(lambda s, x: 1 - s.m[0](x), conv()), (3, 4, 4)),
    "divided by a scalar": (lambda: Formula(lambda s, x: s.m[0](x) / 3, conv()), (3, 4, 4)),
    "channels minus": (
        lambda: Formula(lambda s, x: s.p.view(1, -1, 1, 1) - s.m[0](x), conv(), parameter=torch.randn(8)),
        (3, 4, 4),
    ),
    "minus channels": (
        lambda: Formula(lambda s, x: s.m[0](x) - s.p.view(-1, 1, 1), conv(), parameter=torch.randn(8)),
        (3, 4, 4),
    ),
    "plus a row": (lambda: Formula(lambda s, x: s.m[0](x) + s.p, conv(), parameter=torch.randn(4)), (3, 4, 4)),
    "plus an image": (lambda: Formula(lambda s, x: s.m[0](x) + s.p, conv(), parameter=torch.randn(8, 4, 4)), (3, 4, 4)),
    "one channel plus many": (
        lambda: Formula(lambda s, x: s.m[0](x) + s.p.view(1, -1, 1, 1), conv(3, 1), parameter=torch.randn(8)),
        (3, 4, 4),
    ),
    "squeeze and excitation": (lambda: Formula(gate, conv(), nn.Conv2d(8, 8, 1)), (3, 4, 4)),
    "product with a matrix": (lambda: Formula(lambda s, x: x @ s.p, parameter=torch.randn(6, 7)), (6,)),
    "product with an unturned matrix": (
        lambda: Formula(lambda s, x: x @ s.p.permute(0, 1), parameter=torch.randn(6, 6)),
        (6,),
    ),
    "tied weights": (
        lambda: Formula(lambda s, x: F.linear(F.relu(F.linear(x, s.p)), s.p), parameter=torch.randn(6, 6)),
        (6,),
    ),
    "linear over positions": (lambda: nn.Sequential(conv(), nn.Linear(6, 7)), (3, 5, 6)),
    "layer norm over positions": (lambda: nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.GELU()), (5, 6)),
    "batch norm of vectors": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()), (6,)),
    "batch norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), conv()), (3, 4, 4)),
    "batch norm twice": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU()), (3, 4, 4)),
    "batch norm after ReLU": (lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(8)), (3, 4, 4)),
    "batch norm after a sum": (
        lambda: Formula(lambda s, x: s.m[1](s.m[0](x) + x), conv(8, 8), nn.BatchNorm2d(8)),
        (8, 4, 4),
    ),
    "batch norm without parameters": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, affine=False)), (3, 4, 4)),
    "group norm without parameters": (lambda: nn.Sequential(conv(), nn.GroupNorm(4, 8, affine=False)), (3, 4, 4)),
    "group norm, sum, ReLU": (
        lambda: Formula(lambda s, x: F.relu(s.m[1](s.m[0](x)) + x), conv(8, 8), nn.GroupNorm(2, 8)),
        (8, 4, 4),
    ),
    "ReLU twice": (lambda: nn.Sequential(conv(), nn.ReLU(), nn.ReLU6()), (3, 4, 4)),
    "ReLU in place": (lambda: nn.Sequential(conv(), nn.ReLU(inplace=True)), (3, 4, 4)),
    "sum and ReLU in place": (lambda: Formula(lambda s, x: s.m[0](x).add_(1).relu_(), conv()), (3, 4, 4)),
    "dropout": (lambda: nn.Sequential(conv(), nn.Dropout(0.5)), (3, 4, 4)),
    "used before and after ReLU": (
        lambda: Formula(lambda s, x: (lambda y: F.relu(y) + y)(s.m[0](x)), conv()),
        (3, 4, 4),
    ),
    "twice itself": (lambda: Formula(lambda s, x: (lambda y: y + y)(s.m[0](x)), conv()), (3, 4, 4)),
    "three convolutions summed": (
        lambda: Formula(lambda s, x: s.m[1](x) + s.m[0](x) + s.m[2](x), conv(), conv(), conv()),
        (3, 4, 4),
    ),
    "one convolution twice": (lambda: Formula(lambda s, x: s.m[0](F.relu(s.m[0](x))), conv(3, 3)), (3, 4, 4)),
    "concatenation": (lambda: Formula(lambda s, x: torch.cat([s.m[0](x), s.m[1](x)], 1), conv(), conv()), (3, 4, 4)),
    "slice of channels": (lambda: Formula(lambda s, x: s.m[0](x)[:, 2:6], conv()), (3, 4, 4)),
    "mean over channels": (lambda: Formula(lambda s, x: s.m[0](x).mean(1), conv()), (3, 4, 4)),
    "mean over space, from the end": (lambda: Formula(lambda s, x: s.m[0](x).mean((-1, -2)), conv()), (3, 4, 4)),
    "separable": (lambda: nn.Sequential(depthwise(), nn.ReLU6(), nn.Conv2d(8, 9, 1), nn.ReLU()), (8, 5, 7)),
    "separable with residual": (
        lambda: Formula(lambda s, x: s.m[1](s.m[0](x)) + x, depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "depthwise used twice": (
        lambda: Formula(lambda s, x: (lambda d: s.m[1](d) + d)(s.m[0](x)), depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "depthwise as the residual": (
        lambda: Formula(lambda s, x: s.m[1](x) + s.m[0](x), depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "depthwise plus residual, then 1×1": (
        lambda: Formula(lambda s, x: s.m[1](s.m[0](x) + x), depthwise(), nn.Conv2d(8, 8, 1)),
        (8, 4, 4),
    ),
    "reshaped to an image": (lambda: Formula(lambda s, x: s.m[0](x.view(-1, 3, 4, 4)), conv()), (48,)),
    "ceil_mode that changes nothing": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2, ceil_mode=True)), (3, 4, 4)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    torch.manual_seed(5)
    make, shape = GRAPHS[name]
    model = randomize(make())
    x = batch(5, shape)
    found = compile_inference(model, 3, shape).run(x)
    np.testing.assert_allclose(found, eager(model, x), rtol=1e-4, atol=2e-5)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int]]:
    """A chain of convolutions, norms, activations, sums and pools, then a linear layer."""
    channels, side, other = draw(st.integers(1, 9)), draw(st.integers(6, 13)), draw(st.integers(6, 13))
    shape = (channels, side, other)
    layers: list[nn.Module] = []
    norms: list[Callable[[int], nn.Module]] = [nn.Identity, nn.BatchNorm2d, lambda c: nn.GroupNorm(1, c)]
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, 20 // groups + 1))
        size, stride = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 2))
        layers.append(
            nn.Conv2d(channels, outputs, size, stride, padding=size // 2, groups=groups, bias=draw(st.booleans()))
        )
        channels = outputs
        layers.append(draw(st.sampled_from(norms))(channels))
        layers.append(draw(st.sampled_from([nn.Identity, nn.ReLU, nn.ReLU6, nn.Tanh, nn.GELU]))())
        layers.append(
            draw(st.sampled_from([nn.Identity(), Residual(channels), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)]))
        )
    head = draw(st.sampled_from([nn.AdaptiveAvgPool2d(1), nn.Identity()]))
    model = nn.Sequential(*layers, head, nn.Flatten(), nn.LazyLinear(draw(st.integers(1, 11))))
    model.eval()(torch.zeros(1, *shape))
    return randomize(model), shape


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x))


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(1, 5))
def test_random_networks(network: tuple[nn.Module, tuple[int, int, int]], size: int) -> None:
    model, shape = network
    x = batch(size + 1, shape)
    np.testing.assert_allclose(compile_inference(model, size, shape).run(x), eager(model, x), rtol=1e-3, atol=1e-4)


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
    "adaptive": (nn.AdaptiveAvgPool2d(2), (8, 4, 4), "1×1"),
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


def files(cache: Path) -> set[Path]:
    return set(cache.rglob("*"))


@pytest.fixture
def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Matrix products whose epilogue forgets the bias."""
    right = matmul.matmul

    def forgetful(machine: Any, dtype: str, shape: Any, epilogue: Any) -> Any:
        spoilt = type(epilogue)(epilogue.bias, epilogue.residual, "relu")
        return right(machine, dtype, shape, spoilt)

    monkeypatch.setattr(matmul, "matmul", forgetful)
    yield


@pytest.mark.usefixtures("wrong_kernel")
def test_wrong_code_is_refused_and_not_kept(cache: Path) -> None:
    before = files(cache)
    for _ in range(2):  # the second time must not find it in the cache
        with pytest.raises(VerificationError, match="differ from eager PyTorch"):
            compile_inference(nn.Linear(13, 11), 2, (13,))
        assert {path for path in files(cache) - before if path.is_file()} == set()


def test_code_that_was_never_checked_is_checked_when_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill between build and check."""
    model = nn.Linear(17, 11)

    def killed(*_: Any) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(inference_module, "verify", killed)
        compile_inference(model, 2, (17,))
    calls: list[int] = []
    monkeypatch.setattr(inference_module, "verify", lambda *_: calls.append(1))
    compile_inference(model, 2, (17,))
    assert calls == [1]
    compile_inference(model, 2, (17,))
    assert calls == [1]


def test_one_structure_compiles_once_whatever_its_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nn.Linear(19, 11), nn.Linear(19, 11)
    compile_inference(first, 2, (19,))
    libraries = set((cache / "libraries").iterdir())

    def never(*_: Any) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(inference_module.pipeline, "build", never)
    x = batch(3, (19,))
    np.testing.assert_allclose(compile_inference(second, 2, (19,)).run(x), eager(second, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compile_inference(first, 2, (19,)).run(x), eager(first, x), rtol=1e-4, atol=1e-5)
    assert set((cache / "libraries").iterdir()) == libraries


def test_a_damaged_artifact_in_the_cache_is_written_again() -> None:
    model, x = nn.Linear(23, 11), batch(2, (23,))
    manifest = compile_inference(model, 2, (23,))._artifact.path / "parameters.bin"
    manifest.write_bytes(b"broken")
    np.testing.assert_allclose(compile_inference(model, 2, (23,)).run(x), eager(model, x), rtol=1e-4, atol=1e-5)


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
