"""A market on the embedded chain; tests that ask for `on_both` run on a real node too."""

from collections.abc import Iterator

import pytest

from privlib.sterling.chain import Chain, EmbeddedChain
from tests.sterling.chain.conftest import anvil, chain

from .scene import Scene

__all__ = ["anvil", "chain"]


@pytest.fixture
def scene() -> Scene:
    return Scene(EmbeddedChain())


@pytest.fixture
def on_both(chain: Chain) -> Iterator[Scene]:
    yield Scene(chain)
