"""A small network with every kind of layer, lowered with tiles that cut it in every direction."""

import numpy as np
import pytest

from privlib.ginseng.vta.compile import lower
from privlib.ginseng.vta.network import Conv, MaxPool, Network, Parameters, SumPool, random_parameters
from privlib.ginseng.vta.program import VtaProgram
from privlib.ginseng.vta.schedule import Schedule

SCHEDULES = {
    "a": Schedule(4, 12, 1, 2),
    "b": Schedule(3, 3, 2, 1, order="channels"),
    "p": Schedule(2, 6, 1, 2, interleave="rows", reuse=False, fused_relu=False),
    "c": Schedule(3, 6, 2, 1, interleave="out", residual="alu", reuse=False),
    "r": Schedule(2, 6, 2, 3, residual="gemm", resident=True),
    "d": Schedule(4, 4, 1, 2),
    "m": Schedule(2, 3, 1, 2),
    "s": Schedule(1, 1, 1, 3),
    "e": Schedule(1, 1, 2, 1),
}


def tiny_network() -> Network:
    return Network(
        "tiny",
        (20, 12, 12),
        (
            Conv("a", "input", 20, 12, 12, 3, 1, 11, 40, 1),
            Conv("b", "a", 40, 12, 12, 3, 2, 12, 40, 1, relu=False),
            Conv("p", "a", 40, 12, 12, 1, 2, 10, 40, 0),
            Conv("c", "b", 40, 6, 6, 3, 1, 12, 40, 1, add="p", residual_shift=3),
            Conv("r", "c", 40, 6, 6, 1, 1, 11, 40, 0, add="b", residual_shift=6, relu=False),
            Conv("d", "r", 40, 6, 6, 3, 1, 8, 40, 1, depthwise=True, relu=False),
            MaxPool("m", "d", 40, 6, 6, 2, 2),
            SumPool("s", "m", 40, 3, 3, 3, 1, 3),
            Conv("e", "s", 40, 1, 1, 1, 1, 10, 10, 0, relu=False),
        ),
    )


@pytest.fixture(scope="session")
def tiny() -> VtaProgram:
    return lower(tiny_network(), schedules=SCHEDULES)


@pytest.fixture(scope="session")
def tiny_parameters(tiny: VtaProgram) -> Parameters:
    return random_parameters(tiny.network, seed=0)


@pytest.fixture
def image(tiny: VtaProgram) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, tiny.network.input_shape, dtype=np.int8)
