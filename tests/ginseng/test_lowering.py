"""Networks that make no sense, tiles that do not fit, and what lowering must keep to."""

import numpy as np
import pytest

from privlib.ginseng import networks
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.compile import lower
from privlib.ginseng.vta.config import PUBLISHED
from privlib.ginseng.vta.isa import Engine, Finish, Gemm, MemoryInstruction, Store, decode
from privlib.ginseng.vta.network import Conv, Network, Parameters
from privlib.ginseng.vta.program import VtaProgram, dram_ranges
from privlib.ginseng.vta.schedule import Schedule
from privlib.ginseng.vta.stream import set_dependences


def test_resnet18_has_the_published_layers_and_multiplications() -> None:
    network = networks.build("resnet18")
    labels = [layer.name.split("/")[1].rstrip("a") for layer in network.layers]
    assert [labels.count(f"C{number}") for number in range(2, 12)] == [4, 1, 1, 3, 1, 1, 3, 1, 1, 3]
    assert round(network.macs / 1e6, 1) == 1695.5
    assert sum(layer.residual is not None for layer in network.layers) == 8


@pytest.mark.parametrize(("name", "parameters"), [("vgg9", 3_510_858), ("mobilenet", 3_217_226 - 2 * 10_944)])
def test_tables_have_the_models_parameters(name: str, parameters: int) -> None:
    # MobileNet's norms have a scale that folding removes and a shift that becomes the bias: 10,944 channels, of which
    # the table keeps the shift.
    network = networks.build(name)
    counted = sum(
        int(np.prod(layer.weight_shape)) + layer.filters for layer in network.layers if isinstance(layer, Conv)
    )
    assert counted == (parameters if name == "vgg9" else parameters + 10_944)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(LoweringError, match="resnet18"):
        lower("resnet50")
    with pytest.raises(LoweringError, match="search"):
        lower("vgg9", tiling="best")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv("a", "nowhere", 3, 8, 8, filters=16),), "nowhere"),
        ((Conv("a", "input", 3, 9, 8, filters=16),), "reads 'input'"),
        ((Conv("a", "input", 3, 8, 8, filters=16), Conv("a", "input", 3, 8, 8, filters=16)), "two tensors"),
        ((Conv("a", "input", 3, 8, 8, filters=16, add="input"),), "reads 'input'"),
        ((Conv("a", "input", 3, 8, 8, 9, filters=16),), "output"),
        ((Conv("a", "input", 3, 8, 8, filters=16, depthwise=True),), "depthwise"),
        ((Conv("a", "input", 3, 8, 8, filters=3, add="input", residual_shift=7),), "residual_shift"),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(layers: tuple[Conv, ...], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        Network("bad", (3, 8, 8), layers)


@pytest.mark.parametrize(
    ("schedule", "buffer"),
    [(Schedule(56, 56, 1, 1), "input"), (Schedule(8, 56, 1, 8), "accumulator"), (Schedule(2, 7, 8, 16), "weight")],
)
def test_a_tile_too_large_names_the_buffer(schedule: Schedule, buffer: str) -> None:
    layer = Conv("y", "input", 128, 56, 56, 3, 1, 8, 256, 1)
    with pytest.raises(LoweringError, match=buffer):
        lower(Network("one", layer.in_shape, (layer,)), schedules={"y": schedule})


def test_weights_of_another_shape_or_type_are_refused(tiny: VtaProgram, tiny_parameters: Parameters) -> None:
    weights, bias = tiny_parameters["a"]
    for bad in (
        (weights[:, :1], bias),
        (weights.astype(np.int32), bias),
        (weights, bias[:3]),
        (weights, bias.astype(np.int8)),
    ):
        with pytest.raises(LoweringError, match="'a'"):
            tiny.image({**tiny_parameters, "a": bad})  # type: ignore[dict-item]  # wrong on purpose
    with pytest.raises(LoweringError, match="no weights"):
        tiny.image({})


def test_streams_encode_decode_and_end_in_finish(tiny: VtaProgram) -> None:
    for layer in tiny.layers:
        assert isinstance(layer.instructions[-1], Finish)
        for instruction in layer.instructions:
            assert decode(instruction.encode()) == instruction


def test_every_output_byte_is_stored_once_and_accesses_stay_inside_their_tensor(tiny: VtaProgram) -> None:
    for layer in tiny.layers:
        region = tiny.regions[layer.name]
        stored = np.zeros(region.size, np.int64)
        for instruction in layer.instructions:
            if isinstance(instruction, MemoryInstruction):
                for start, end in dram_ranges(instruction, PUBLISHED):
                    assert any(r.base <= start and end <= r.end for r in tiny.regions.values())
                    if isinstance(instruction, Store):
                        stored[start - region.base : end - region.base] += 1
        assert (stored == 1).all(), layer.name


def test_gemm_passes_are_exactly_what_the_shapes_ask_for() -> None:
    program = lower("resnet18", tiling="published")
    passes = sum(
        i.passes for layer in program.layers for i in layer.instructions if isinstance(i, Gemm) and not i.reset
    )
    assert passes * 256 == program.network.macs


def test_a_wait_without_a_queue_is_refused() -> None:
    program = lower(Network("one", (16, 4, 4), (Conv("y", "input", 16, 4, 4, filters=16),)))
    instructions = list(program.layers[0].instructions)
    store = next(n for n, i in enumerate(instructions) if i.engine is Engine.STORE)
    needs: list[tuple[int, ...]] = [() for _ in instructions]
    needs[store] = (next(n for n, i in enumerate(instructions) if i.engine is Engine.LOAD),)
    with pytest.raises(LoweringError, match="no queue from LOAD to STORE"):
        set_dependences(instructions, needs)
