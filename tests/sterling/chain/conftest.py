"""Both chains, for whatever should hold on either; what is compiled is kept for the session."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privlib.files import cache_dir
from privlib.sterling.chain import AnvilChain, Chain, ContractCode, EmbeddedChain, NodeError, compile_vyper
from privlib.sterling.chain.node import anvil_binary

_KEPT = cache_dir("anvil")  # the machine's cache, not the session's, so that the node is fetched once
_PROBE = Path(__file__).with_name("Probe.vy")


@pytest.fixture(scope="session")
def anvil(cache: Path) -> Callable[..., AnvilChain]:
    """Starts a node; the test is skipped where there is none and none can be had."""
    if not (cache / "anvil").exists():
        os.symlink(_KEPT, cache / "anvil")
    try:
        anvil_binary()
    except NodeError as error:
        pytest.skip(f"no anvil in the cache, and none to be had: {error}")
    return AnvilChain


@pytest.fixture(params=["embedded", "anvil"])
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    start = EmbeddedChain if request.param == "embedded" else request.getfixturevalue("anvil")
    with start() as started:
        yield started


@pytest.fixture(scope="session")
def probe() -> ContractCode:
    """A contract that does a little of everything."""
    return compile_vyper(_PROBE)
