"""Printed IR, operator counts, and the times of kernels, on a network small enough to know them."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from privlib.compiler import DPSGD, SGD, compile_training, pictures, profile
from privlib.compiler.training import CompiledTraining
from privlib.suite import memory

BATCH = 3


@pytest.fixture(scope="module")
def step() -> CompiledTraining:
    torch.manual_seed(0)
    layers = OrderedDict(hidden=nn.Linear(6, 5), activation=nn.Tanh(), last=nn.Linear(5, 4))
    privacy = DPSGD(1.0, 1.0, BATCH)
    return compile_training(nn.Sequential(layers), BATCH, input_shape=(6,), optimizer=SGD(0.1), privacy=privacy)


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((BATCH, 6)).astype("float32"), np.arange(BATCH)


def test_lines_show_operator_operands_shape_and_unusual_attributes(step: CompiledTraining) -> None:
    lines = pictures.lines(step.ir("fused"))
    assert any("(3, 5) = dense(" in line and "hidden.weight, hidden.bias" in line for line in lines)
    (norm,) = [line for line in pictures.lines(step.ir("strategies")) if "parameter=last.weight" in line]
    assert "weight_norm(" in norm and "strategy=goodfellow" in norm and "views" not in norm


@pytest.mark.parametrize("stage", ["imported", "canonical", "differentiated", "lowered", "planned"])
def test_every_stage_can_be_printed_and_an_excerpt_is_part_of_it(step: CompiledTraining, stage: str) -> None:
    module = step.ir(stage)
    lines = pictures.lines(module)
    excerpt = pictures.excerpt(module, "last.weight", most=2, width=200).splitlines()
    shown = [line for line in excerpt if line != "…"]
    assert shown and all("last.weight" in line for line in shown)
    assert all(any(whole.startswith(line.rstrip("…")) for whole in lines) for line in shown)
    assert "……" not in "".join(excerpt)


def test_planning_adds_no_operator(step: CompiledTraining) -> None:
    assert pictures.operators(step.ir("planned")) == pictures.operators(step.ir("lowered")) > 0


def test_torch_operators_grow_with_a_loop() -> None:
    def loop(times: int) -> None:
        for _ in range(times):
            torch.ones(3).mul(2)

    assert pictures.torch_operators(loop, 3) == 6


def test_kernel_calls_are_those_of_the_lowered_module_in_order(
    step: CompiledTraining, inputs: tuple[np.ndarray, np.ndarray]
) -> None:
    before = step.parameters()
    calls = profile.kernel_calls(step, *inputs, rounds=2)
    printed = [line.split(" = ")[1].split("(")[0] for line in pictures.lines(step.ir("planned"))]
    names = [name for name, _ in calls]
    assert names == [name for name in printed if name in set(names)]
    assert len(calls) == pictures.operators(step.ir("lowered"))
    assert all(seconds > 0 for _, seconds in calls)
    assert all((value == before[name]).all() for name, value in step.parameters().items())


def test_parts_add_up_to_all_kernels(step: CompiledTraining, inputs: tuple[np.ndarray, np.ndarray]) -> None:
    calls = profile.kernel_calls(step, *inputs, rounds=2)
    parts = profile.parts(calls)
    assert tuple(parts) == profile.PARTS
    assert sum(parts.values()) == pytest.approx(sum(seconds for _, seconds in calls))
    assert all(seconds > 0 for seconds in parts.values())


def test_kernel_times_add_up_the_calls_of_a_kernel(
    step: CompiledTraining, inputs: tuple[np.ndarray, np.ndarray]
) -> None:
    times = profile.kernel_times(step, *inputs, rounds=2)
    assert set(times) == {name for name, _ in profile.kernel_calls(step, *inputs, rounds=2)}


def test_update_seconds_leaves_parameters_as_they_are(
    step: CompiledTraining, inputs: tuple[np.ndarray, np.ndarray]
) -> None:
    before = step.parameters()
    assert profile.update_seconds(step, *inputs, rounds=2) > 0
    assert all((value == before[name]).all() for name, value in step.parameters().items())


def test_peak_growth_sees_what_a_call_touches_and_not_what_came_before() -> None:
    size = 64 * 2**20
    first = memory.peak_growth(lambda: np.ones(4 * size, np.uint8))
    second = memory.peak_growth(lambda: np.ones(size, np.uint8))
    assert first == pytest.approx(4 * size, rel=0.1)
    assert second == pytest.approx(size, rel=0.2)
