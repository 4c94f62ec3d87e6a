"""Bit-exactness against PyTorch integers, whatever the tiles and whoever is ahead; hostile streams."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privlib.ginseng.errors import ExecutionError, LoweringError
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.vta import functional, isa
from privlib.ginseng.vta.compile import lower
from privlib.ginseng.vta.config import PUBLISHED
from privlib.ginseng.vta.network import Conv, Network, Parameters, random_parameters
from privlib.ginseng.vta.program import VtaProgram
from privlib.ginseng.vta.schedule import Schedule
from tests.ginseng.int8_reference import forward


def _every_tensor(
    program: VtaProgram, parameters: Parameters, image: np.ndarray, policy: functional.Policy
) -> dict[str, np.ndarray]:
    memory = protected_dram("none", program)
    functional.load_constants(program, parameters, memory)
    functional.run(program, memory, image, policy=policy)
    return {
        name: program.unpack(memory.read(program.regions[name].base, program.regions[name].end), shape)
        for name, shape in program.network.shapes.items()
    }


def test_every_tensor_equals_the_reference(tiny: VtaProgram, tiny_parameters: Parameters, image: np.ndarray) -> None:
    got = _every_tensor(tiny, tiny_parameters, image, functional.latest_first)
    for name, expected in forward(tiny.network, tiny_parameters, image).items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_dependence_bits_make_every_interleaving_give_the_same(
    tiny: VtaProgram, tiny_parameters: Parameters, image: np.ndarray, seed: int
) -> None:
    generator = np.random.default_rng(seed)

    def erratic(ready: Sequence[isa.Engine]) -> isa.Engine:
        return min(ready) if seed == 0 else ready[int(generator.integers(len(ready)))]

    got = _every_tensor(tiny, tiny_parameters, image, erratic)
    for name, expected in forward(tiny.network, tiny_parameters, image).items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


def test_without_its_tokens_some_interleaving_goes_wrong(
    tiny: VtaProgram, tiny_parameters: Parameters, image: np.ndarray
) -> None:
    memory = protected_dram("none", tiny)
    functional.load_constants(tiny, tiny_parameters, memory)
    memory.begin(tiny.regions["input"])
    memory.write(tiny.regions["input"].base, tiny.pack(image))
    stream = functional.fetch(memory, tiny.regions["a:instructions"])
    for instruction in stream:
        instruction.pop_prev = instruction.pop_next = instruction.push_prev = instruction.push_next = False
    functional.launch(stream, memory, PUBLISHED, min)
    region = tiny.regions["a"]
    got = tiny.unpack(memory.read(region.base, region.end), tiny.network.shapes["a"])
    assert (got != forward(tiny.network, tiny_parameters, image)["a"]).any()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    size=st.integers(3, 11),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]),
    pad=st.integers(0, 1),
    depthwise=st.booleans(),
    relu=st.booleans(),
    shift=st.integers(0, 13),
    rows=st.integers(1, 11),
    columns=st.integers(1, 11),
    chunk=st.integers(1, 3),
    outs=st.integers(1, 3),
    order=st.sampled_from(["rows", "channels"]),
    interleave=st.sampled_from(["", "out", "rows"]),
    data=st.data(),
)
def test_any_convolution_under_any_schedule(
    channels: int,
    filters: int,
    size: int,
    kernel: int,
    stride: int,
    pad: int,
    depthwise: bool,
    relu: bool,
    shift: int,
    rows: int,
    columns: int,
    chunk: int,
    outs: int,
    order: str,
    interleave: str,
    data: st.DataObject,
) -> None:
    filters = channels if depthwise else filters
    layer = Conv(
        "y", "input", channels, size, size, kernel, stride, shift, filters, min(pad, kernel - 1), depthwise, relu
    )
    network = Network("one", (channels, size, size), (layer,))
    reuse = interleave == ""
    schedule = Schedule(rows, columns, chunk, outs, order, interleave, reuse, fused_relu=data.draw(st.booleans()))
    try:
        program = lower(network, schedules={"y": schedule})
    except LoweringError:
        return
    parameters = random_parameters(network, seed=size)
    image = np.random.default_rng(rows).integers(-128, 128, network.input_shape, dtype=np.int8)
    got = _every_tensor(program, parameters, image, functional.latest_first)
    np.testing.assert_array_equal(got["y"], forward(network, parameters, image)["y"])


@pytest.mark.parametrize("name", ["resnet18", "resnet32", "vgg9", "mobilenet"])
def test_whole_networks_are_bit_exact(name: str) -> None:
    program = lower(name)
    parameters = random_parameters(program.network, seed=5)
    image = np.random.default_rng(6).integers(-128, 128, program.network.input_shape, dtype=np.int8)
    got = _every_tensor(program, parameters, image, functional.latest_first)
    for tensor, expected in forward(program.network, parameters, image).items():
        np.testing.assert_array_equal(got[tensor], expected, err_msg=tensor)
        # Values spread out, so that a wrong one shows.
        assert len(np.unique(expected)) > min(50, expected.size // 2), tensor


def test_a_whole_network_under_full_protection_computes_the_same() -> None:
    program = lower("resnet32")
    parameters = random_parameters(program.network, seed=7)
    image = np.random.default_rng(8).integers(-128, 128, program.network.input_shape, dtype=np.int8)
    memory = protected_dram("tec", program)
    functional.load_constants(program, parameters, memory)
    expected = forward(program.network, parameters, image)[program.network.output]
    np.testing.assert_array_equal(functional.run(program, memory, image), expected)


def test_a_stream_that_waits_for_nobody_is_refused(tiny: VtaProgram) -> None:
    with pytest.raises(ExecutionError, match="COMPUTE"):
        functional.launch([isa.Gemm(pop_prev=True)], protected_dram("none", tiny), PUBLISHED)


@pytest.mark.parametrize(
    "instruction",
    [
        isa.Load(memory=isa.Memory.INP, sram_base=2040, x_size=16, x_stride=16),
        isa.Load(memory=isa.Memory.OUT),
        isa.Store(memory=isa.Memory.INP),
        isa.Store(memory=isa.Memory.OUT, sram_base=2047, x_size=2),
        isa.Gemm(uop_begin=0, uop_end=9000),
        isa.Gemm(uop_end=1, iter_in=3000, src_factor_in=1),
        isa.Alu(uop_end=1, iter_in=3000, dst_factor_in=1),
    ],
)
def test_an_index_outside_a_buffer_is_refused(tiny: VtaProgram, instruction: isa.Instruction) -> None:
    with pytest.raises(ExecutionError):
        functional.launch([instruction], protected_dram("none", tiny), PUBLISHED)


def test_an_image_of_another_shape_or_type_is_refused(tiny: VtaProgram) -> None:
    images: list[np.ndarray] = [np.zeros((3, 12, 12), np.int8), np.zeros(tiny.network.input_shape, np.float32)]
    for image in images:
        with pytest.raises(ExecutionError, match="int8"):
            functional.run(tiny, protected_dram("none", tiny), image)
