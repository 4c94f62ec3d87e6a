"""The schedule search: quick, repeatable, never behind the published tiles; what it refuses."""

import time

import pytest

from privlib.ginseng import lower, networks, simulate
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta import tiling
from privlib.ginseng.vta.config import PUBLISHED, VtaConfig
from privlib.ginseng.vta.network import Conv
from privlib.ginseng.vta.schedule import plan


def test_the_search_takes_seconds_and_finds_the_same_again() -> None:
    layers = networks.build("resnet18").layers
    tiling._search.cache_clear()
    first = [tiling.search_schedule(layer, PUBLISHED) for layer in layers[:3]]
    tiling._search.cache_clear()
    start = time.process_time()
    again = [tiling.search_schedule(layer, PUBLISHED) for layer in layers]
    assert time.process_time() - start < 30
    assert again[:3] == first


def test_no_layer_is_slower_than_with_the_published_tile() -> None:
    ours, published = (simulate(lower("resnet18", tiling=name)) for name in ("search", "published"))
    for mine, theirs in zip(ours.layers, published.layers, strict=True):
        assert mine.cycles <= theirs.cycles, mine.name


@pytest.mark.parametrize("name", ["resnet32", "vgg9", "mobilenet"])
def test_every_layer_of_every_network_gets_a_schedule_that_fits(name: str) -> None:
    for layer in networks.build(name).layers:
        plan(layer, tiling.search_schedule(layer, PUBLISHED), PUBLISHED)


def test_smaller_buffers_get_smaller_tiles_and_cost_traffic() -> None:
    small = VtaConfig(input_buffer_bytes=1 << 13, weight_buffer_bytes=1 << 15, accumulator_buffer_bytes=1 << 15)
    network = networks.build("vgg9")
    assert simulate(lower(network, config=small)).bytes_moved > simulate(lower(network)).bytes_moved


def test_a_layer_that_fits_with_no_tile_is_refused() -> None:
    with pytest.raises(LoweringError, match="no tile"):
        tiling.search_schedule(Conv("y", "input", 16, 60, 60, 60), PUBLISHED)


def test_shapes_missing_from_the_published_record_are_refused() -> None:
    with pytest.raises(LoweringError, match="published record"):
        lower("vgg9", tiling="published")
