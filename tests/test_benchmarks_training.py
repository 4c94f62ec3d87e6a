"""Training benchmarks: the references, every peer's gradients and noise, the ratios, whole runs in `smoke`."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cifar10, fusion, harness, kernels, reported, training
from benchmarks.cases import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Case
from benchmarks.harness import Measured
from privlib.compiler.target import machine
from privlib.suite import bench, record, records, report
from privlib.suite.errors import ParameterError
from privlib.suite.records import Subject
from privlib.suite.timing import relative_error
from privlib.trusted.runtime import tvm_runtime, use_all_cores

ROOT = Path(__file__).resolve().parents[1]
# privlib's start a process to compile: they are measured by the smoke run.
IN_PROCESS = sorted(
    name for name in harness.peers("training") | harness.peers("accumulation") if not name.startswith("privlib")
)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return training.make_case(tmp_path_factory.mktemp("case"), "small_cnn", "small_cnn", 4)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """Ends the record that the test has filled and returns its content."""
    subject = Subject("tiny", "benchmark", "1", "smoke", {}, ["privlib"])
    with records.staging(tmp_path / "results", tmp_path, subject) as staged:
        monkeypatch.setenv(record.RUN_FOLDER, str(staged.folder))
        yield lambda: staged.commit("ok").data


def test_references_are_the_mean_gradient_and_the_sum_of_clipped_ones(case: Case) -> None:
    model = case.model().train().double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images, labels = torch.from_numpy(case.input()).double(), torch.from_numpy(case.labels())

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scores = torch.func.functional_call(model, values, (image[None],))
        return torch.nn.functional.cross_entropy(scores, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in each.values()]).norm(dim=0)
    assert float(norms.max()) > MAX_GRAD_NORM, "something is clipped"
    factors = (MAX_GRAD_NORM / norms).clamp(max=1.0)
    for kind, weights in (("plain", torch.full_like(factors, 1 / 4)), ("private", factors)):
        with np.load(case.folder / f"output-reference_{kind}.npz") as found:
            assert set(found.files) == set(parameters)
            for name, gradients in each.items():
                expected = torch.tensordot(weights, gradients, dims=1).numpy()
                assert found[name].dtype == np.float64
                assert relative_error(found[name], expected) < 1e-12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_peer_computes_the_reference_gradient(case: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor's C++ takes a minute; what it is given is the same for a backend that runs the graph as it is.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    module = (harness.peers("training") | harness.peers("accumulation"))[name]
    reference = "private" if getattr(module, "PRIVATE", False) else "plain"
    bound = {"float32": 1e-4, "bfloat16": 0.3}[module.PRECISION]
    with np.load(case.folder / f"output-reference_{reference}.npz") as expected:
        for task in ("training", "accumulation"):
            if hasattr(module, task):
                prepared = getattr(module, task)(case)
                prepared.run()
                assert set(prepared.agreement) == set(expected.files)
                for key, gradient in prepared.agreement.items():
                    assert relative_error(gradient, expected[key]) < bound


@pytest.mark.filterwarnings("ignore")
def test_an_opacus_step_adds_noise_of_the_declared_size(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the agreement was taken without noise, a timed step has it: batch · step / rate − sum is the noise."""
    from benchmarks.peers import _pytorch, opacus_hooks

    model = case.model()
    monkeypatch.setattr(Case, "model", lambda _: model)
    prepared = opacus_hooks.training(case)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prepared.run()
    noise = np.concatenate(
        [
            ((before[name] - p.detach()).numpy() * case.batch_size / LEARNING_RATE - prepared.agreement[name]).ravel()
            for name, p in model.named_parameters()
        ]
    )
    assert noise.std() == pytest.approx(NOISE_MULTIPLIER * MAX_GRAD_NORM, rel=0.02)
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert _pytorch.facts(case, "", prepared.run)["operators"] > 100


def test_the_loop_calls_more_operators_for_more_examples_and_vmap_does_not(tmp_path: Path) -> None:
    from benchmarks.peers import naive_loop, torch_func_vmap

    counts: dict[str, list[int]] = {"loop": [], "vmap": []}
    for size in (2, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        made = training.make_case(folder, "small_cnn", "small_cnn", size, double=False)
        for name, module in (("loop", naive_loop), ("vmap", torch_func_vmap)):
            counts[name].append(module.facts(made, name, module.accumulation(made).run)["operators"])
    assert counts["loop"][1] > 1.8 * counts["loop"][0]
    assert counts["vmap"][0] == counts["vmap"][1]


@pytest.mark.parametrize("name", ["jax_jit", "jax_vmap", "jax_privacy", "opacus_ghost"])
def test_a_missing_library_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module(f"benchmarks.peers.{name}")
    for where in (module, importlib.import_module(module.unavailable.__module__)):
        monkeypatch.setattr(where, "find_spec", lambda _: None, raising=False)
    assert "pip install" in module.unavailable()


def _measured(rates: dict[str, list[float]], peaks: dict[str, int] | None = None) -> Measured:
    private = {name for name in rates if name.startswith(("opacus", "privlib_private"))}
    modules = {
        name: SimpleNamespace(PRIVATE=name in private, PRECISION="bfloat16" if "bf16" in name else "float32")
        for name in rates
    }
    return Measured(rates, peaks or dict.fromkeys(rates, 100), {name: {} for name in rates}, modules)


RATES = {
    "pytorch_eager": [90.0, 100.0, 110.0],
    "pytorch_channels_last": [99.0, 95.0, 98.0],
    "pytorch_bf16": [900.0, 900.0, 900.0],
    "jax_jit": [500.0, 500.0, 500.0],
    "opacus_hooks": [20.0, 21.0, 22.0],
    "opacus_ghost": [30.0, 30.0, 30.0],
    "privlib_private": [180.0, 210.0, 220.0],
    "privlib_plain": [200.0, 210.0, 250.0],
}


def test_ratios_are_taken_by_rounds_against_the_fastest(recorded: Callable[[], dict[str, Any]]) -> None:
    cifar10.ratios("vgg9", _measured(RATES, {**dict.fromkeys(RATES, 100), "privlib_private": 110}))
    data = recorded()
    found = {metric["name"]: metric for metric in data["metrics"]}
    ours = "vgg9/privlib_private"
    # Of the float32 PyTorch rows eager has the larger median; neither bf16 nor JAX stands in for it.
    assert found[f"{ours}/speedup_over_fastest_fp32_pytorch"]["value"] == pytest.approx(2.0)
    assert found["vgg9/privlib_plain/speedup_over_fastest_fp32_pytorch"]["value"] == pytest.approx(200 / 90)
    assert found[f"{ours}/throughput_over_plain"]["value"] == pytest.approx(0.9)
    assert found[f"{ours}/memory_over_plain"]["value"] == pytest.approx(1.1)
    stand_in = found["vgg9/fastdp_stand_in/throughput"]
    assert stand_in["kind"] == "reported" and "fastDP" in stand_in["source"]
    assert stand_in["value"] == pytest.approx(37.0)
    # The stand-in beats Opacus, round by round 0.37 of eager.
    assert found[f"{ours}/speedup_over_fastest_private_peer"]["value"] == pytest.approx(180 / (0.37 * 90))
    assert "pytorch_eager" in data["notes"][0] and "fastdp_stand_in" in data["notes"][0]


def test_without_opacus_no_speed_over_private_peers_is_claimed(recorded: Callable[[], dict[str, Any]]) -> None:
    cifar10.ratios("vgg9", _measured({name: rate for name, rate in RATES.items() if "opacus" not in name}))
    data = recorded()
    assert not [metric for metric in data["metrics"] if "private_peer" in metric["name"]]
    assert "Opacus is not installed" in data["notes"][0]


def test_the_rows_are_those_that_the_report_sets_beside_the_talk() -> None:
    wanted = [name for number in report.reported_numbers() for which, name in number["ours"] if which == "cifar10"]
    plain = [name.split("/") for name in wanted if "pytorch" in name]
    assert len(plain) == 2
    assert all(row in cifar10.ROWS and (harness.PEERS / f"{peer}.py").is_file() for row, peer, _ in plain)


def test_hours_and_the_figures_of_others_stand_with_their_sources(recorded: Callable[[], dict[str, Any]]) -> None:
    reported.hours("resnet32", {"privlib_private": [500.0], "privlib_private_enclave": [500.0]})
    reported.others(["vgg9", "mobilenet224"])
    found = {metric["name"]: metric for metric in recorded()["metrics"]}
    assert found["resnet32/privlib_private/hours_of_164_epochs"]["value"] == pytest.approx(164 * 50_000 / 500 / 3600)
    # Half a day at the talk's 12.4 images a second; inside, two rows are run for each example.
    assert found["resnet32/privlib_private/hours_of_the_half_day"]["value"] == pytest.approx(12 * 12.4 / 500)
    assert found["resnet32/privlib_private_enclave/hours_of_the_half_day"]["value"] == pytest.approx(24 * 12.4 / 500)
    chiron, slalom = found["vgg9/chiron/training_throughput"], found["mobilenet224/slalom/inference_throughput"]
    assert (chiron["value"], slalom["value"]) == (24.7, 35.7)
    assert all(metric["kind"] == "reported" and "arXiv" in metric["source"] for metric in (chiron, slalom))


def test_only_training_selects_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(cifar10, "run", lambda profile, rows: asked.append(rows))
    bench.run(ROOT, "cifar10", "smoke", ["training"], tmp_path)
    bench.run(ROOT, "cifar10", "smoke", ["resnet32"], tmp_path)
    assert asked == [["vgg9", "resnet32"], ["resnet32"]]
    with pytest.raises(
        ParameterError, match="no row inferense; it has: vgg9, resnet32, mobilenet32, mobilenet224, training"
    ):
        bench.run(ROOT, "cifar10", "smoke", ["inferense"], tmp_path)


def test_a_smoke_run_of_the_table_measures_everybody_and_leaves_the_ratios(tmp_path: Path) -> None:
    data = bench.run(ROOT, "cifar10", "smoke", ["training"], tmp_path).data
    assert data["status"] == "ok", data["reason"]
    found = {metric["name"]: metric for metric in data["metrics"]}
    for peer in cifar10.SMOKE_PEERS:
        assert found[f"small_cnn/{peer}/throughput"]["n"] == 2, peer
        assert found[f"small_cnn/{peer}/relative_error"]["value"] < 5e-2
        assert found[f"small_cnn/{peer}/peak_memory"]["value"] > 2**20
    assert found["small_cnn/privlib_private/throughput_over_plain"]["value"] > 0
    assert found["small_cnn/privlib_private/planned_memory"]["class"] == "deterministic"
    for kind in ("private", "plain"):
        inside = f"small_cnn/privlib_{kind}_enclave"
        assert found[f"{inside}/throughput_over_outside"]["n"] == 2
        assert found[f"{inside}/host_calls_per_request"]["value"] > 0, "charging asks the host"
        assert found[f"{inside}/mapped_code_bytes"]["value"] < 80_000_000
        assert found[f"small_cnn/privlib_{kind}/compile_time"]["value"] > 0
    certified, tight = (
        found[f"small_cnn/privlib_private{where}/epsilon_per_epoch"]["value"] for where in ("_enclave", "")
    )
    assert 0 < tight < certified < 1
    assert {"opacus", "torch", "apache-tvm"} <= set(data["versions"])


def test_a_smoke_run_of_the_kernels_measures_them_beside_the_peak(tmp_path: Path) -> None:
    data = bench.run(ROOT, "fusion", "smoke", ["kernels"], tmp_path).data
    assert data["status"] == "ok", data["reason"]
    found = {metric["name"]: metric for metric in data["metrics"]}
    assert found["machine/fma_peak/flop_rate"]["n"] == 2
    assert {name.split("/")[0] for name in found} == {"machine", "conv_64_64_8x8"}
    for role in ("forward", "data_gradient", "weight_gradient_summed"):
        family = found[f"conv_64_64_8x8/{role}/family"]["value"]
        assert (f"conv_64_64_8x8/{role}_winograd/flop_rate" in found) == (family == "winograd")
        share = found[f"conv_64_64_8x8/{role}_direct/share_of_peak"]
        rate = found[f"conv_64_64_8x8/{role}_direct/flop_rate"]
        assert share["value"] > 0
        assert rate["interval"]["low"] > 0


@pytest.mark.soak
def test_a_smoke_run_of_fusion_shows_as_many_operators_for_twice_the_examples(tmp_path: Path) -> None:
    data = bench.run(ROOT, "fusion", "smoke", [], tmp_path).data
    assert data["status"] == "ok", data["reason"]
    found = {metric["name"]: metric for metric in data["metrics"]}
    for peer in fusion.OURS:
        counts = {found[f"small_cnn_batch{size}/{peer}/operators"]["value"] for size in fusion.SIZES["smoke"]}
        assert len(counts) == 1
    assert "small_cnn_batch4/naive_loop/throughput" in found


def test_growth_compares_the_smallest_with_the_largest_batch(
    monkeypatch: pytest.MonkeyPatch, recorded: Callable[[], dict[str, Any]]
) -> None:
    """Plain takes as long per example at every m, private 2% and 6% longer; the loop needs 3 bytes an example."""

    def compare(case: Case, task: str, effort: harness.Effort, only: tuple[str, ...]) -> Measured:
        m = case.batch_size
        rates = {name: [100.0, 200.0] for name in only}
        peaks = dict.fromkeys(only, 1000 + 3 * m)
        if "privlib_private" in only:
            rates["privlib_private"] = [rate / {4: 1.02, 8: 1.06}[m] for rate in rates["privlib_plain"]]
            peaks |= {"privlib_private": 1100 + 6 * m}
        return Measured(rates, peaks, {name: {"operators": 7} for name in only}, dict.fromkeys(only))

    monkeypatch.setattr(harness, "compare", compare)
    fusion.run("smoke", ["vgg9"])
    found = {metric["name"]: metric["value"] for metric in recorded()["metrics"]}
    assert found["small_cnn_batch8/privlib_private/time_over_plain"] == pytest.approx(1.06)
    assert found["small_cnn/privlib_private/time_over_plain_growth"] == pytest.approx(1.06 / 1.02)
    assert found["small_cnn_batch4/privlib_private/memory_over_plain"] == pytest.approx(1124 / 1012)
    assert found["small_cnn/privlib_private/memory_over_plain_growth"] == pytest.approx(1148 / 1024 * 1012 / 1124)
    assert found["small_cnn/privlib_private/memory_per_example"] == 6
    assert found["small_cnn_batch4/naive_loop/operators"] == 7
    assert "small_cnn_batch8/naive_loop/operators" not in found, "the others stop at a smaller batch"


def test_vmap_is_left_out_where_its_gradients_do_not_fit(
    case: Case, monkeypatch: pytest.MonkeyPatch, recorded: Callable[[], dict[str, Any]]
) -> None:
    asked = []
    monkeypatch.setattr(fusion.psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    monkeypatch.setattr(harness, "compare", lambda case, task, effort, only: asked.append(list(only)))
    fusion._others(case, "quick")
    assert asked == [["naive_loop", "opacus_ghost"]]
    assert "torch_func_vmap is left out" in recorded()["notes"][0]


def test_the_convolutions_are_those_of_the_networks() -> None:
    found = kernels.convolutions("resnet32", 2)
    assert set(found) == {
        "conv_3_16_32x32", "conv_16_16_32x32", "conv_16_32_32x32_stride2", "conv_32_32_16x16",
        "conv_32_64_16x16_stride2", "conv_64_64_8x8",
    }  # fmt: skip
    strided = found["conv_32_64_16x16_stride2"]
    assert (strided.batch, strided.out_height, strided.c_out) == (2, 8, 64)
    assert len(kernels.convolutions("vgg9", 2)) == 6


def test_the_peak_kernel_multiplies_and_adds_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import tvm

    monkeypatch.setattr(kernels, "_LOOPS", 3)
    use_all_cores()
    cpu = machine()
    peak = kernels.peak(cpu)
    result_shape = peak.shapes[2]
    assert peak.flops == 2 * 3 * math.prod(result_shape)
    library = tvm.compile(tvm.IRModule({"peak": peak.function.with_attr("global_symbol", "peak")}), cpu.tvm_target())
    x, y = (np.full(peak.shapes[0], value, np.float32) for value in (2.0, 1.0))
    result = tvm_runtime().tensor(np.zeros(result_shape, np.float32))
    library["peak"](tvm_runtime().tensor(x), tvm_runtime().tensor(y), result)
    registers = np.repeat(np.arange(result_shape[1] // len(x), dtype=np.float32), len(x))
    np.testing.assert_array_equal(result.numpy(), np.broadcast_to(registers * 8 + 7, result_shape))
