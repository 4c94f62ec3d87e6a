"""A cache of its own for every test session, as for the compiler's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`$PRIVLIB_CACHE` for the whole session, so that tests may share what they compile."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVLIB_CACHE", str(folder))
        yield folder
