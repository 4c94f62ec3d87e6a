"""What pictures are made of: every instruction has a colour, every network and mode a name."""

import pytest

from privlib.ginseng import CycleReport, attacks, lower, pictures, simulate
from privlib.ginseng.memory.traffic import MODES
from privlib.ginseng.networks import NETWORKS
from privlib.ginseng.vta.isa import Engine
from privlib.suite import plots


@pytest.fixture(scope="module")
def traced() -> CycleReport:
    return simulate(lower("tiny"), "tec", trace=True)


def test_every_instruction_of_a_run_has_a_colour(traced: CycleReport) -> None:
    words = {(span.engine, pictures.activity(span.what)) for layer in traced.layers for span in layer.spans}
    assert {word for _, word in words} == set(pictures._ACTIVITIES)
    assert {word for engine, word in words if engine is Engine.STORE} == {"store"}


def test_a_time_line_draws_every_span_that_starts_in_time(traced: CycleReport) -> None:
    layer = traced.layers[0]
    _, axes = plots.figure()
    pictures.timeline(axes, layer, layer.cycles)
    assert sum(len(bars.get_paths()) for bars in axes.collections) == len(layer.spans)
    assert axes.get_xlim() == (0, layer.cycles)


def test_every_byte_that_moves_is_of_a_kind_that_is_drawn(traced: CycleReport) -> None:
    drawn = {kind for kinds, _ in pictures._KINDS.values() for kind in kinds}
    for mode in MODES:
        assert set(simulate(lower("tiny"), mode).moved) <= drawn


def test_every_verdict_and_mode_is_drawn() -> None:
    assert set(pictures._VERDICTS) == set(attacks.Verdict)
    assert set(pictures.MODE_COLOURS) | {"none"} == set(MODES)
    assert set(pictures._NETWORK_COLOURS) | {"tiny"} == set(NETWORKS)
    outcomes = [attacks.Outcome("flip", "tec", verdict) for verdict in attacks.Verdict]
    assert pictures.attack_summary(outcomes) == f"TEC stops 2 of {len(outcomes)} attacks"
