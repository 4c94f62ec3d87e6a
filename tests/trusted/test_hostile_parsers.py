"""Ledgers, artifacts' manifests and datasets of examples, as strangers may write them: read whole or refused, with the
error of each. In every run a few hundred, in `make soak` 100,000 each. The other parsers have theirs beside them."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted import artifact, ledger
from privlib.trusted.artifact import ArtifactError
from privlib.trusted.events import Event
from privlib.trusted.examples import KIND, read_examples
from privlib.trusted.ledger import Budget, LedgerError
from privlib.trusted.model import InputError
from privlib.trusted.protocol import Message, encode
from privlib.trusted.training import TrainingStep

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def in_every_run(count: int, strategy: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    return lambda test: settings(max_examples=count, deadline=None)(given(strategy)(test))


def _ledger() -> bytes:
    first = ledger.first_line(Budget(3.0, 1e-5))
    event = {"event": Event("poisson", 1.0, 7, sample_rate=0.01).to_json()}
    return first + ledger.line_of(event, first[:64].decode())[0]


LEDGER = _ledger()


@st.composite
def ledgers(draw: st.DrawFn) -> bytes:
    """Bytes put into a real one; or lines whose hashes are right, of any content."""
    if draw(st.booleans()):
        at, cut = draw(st.integers(0, len(LEDGER))), draw(st.integers(0, 80))
        return LEDGER[:at] + draw(st.binary(max_size=30)) + LEDGER[at + cut :]
    first = LEDGER.splitlines(True)[0]
    line, _ = ledger.line_of(draw(VALUES | st.fixed_dictionaries({"event": VALUES})), first[:64].decode())
    return first + line


def ledger_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(LedgerError):
        found = ledger.parse("it", data)
        assert found.budget is None or isinstance(found.budget, Budget)
        assert all(isinstance(event, Event) for event in found.events)
        assert len(found.hashes) <= data.count(b"\n") + 1, "the last line may lack its end"


test_hostile_ledgers = in_every_run(200, ledgers())(ledger_is_read_or_refused)
test_100_000_hostile_ledgers = pytest.mark.soak(in_every_run(100_000, ledgers())(ledger_is_read_or_refused))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact in form; its code is no code, and is never loaded."""
    made = tmp_path_factory.mktemp("hostile")
    (made / "code").write_bytes(b"code")
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    facts = {"kind": "none", "level": "x86-64-v3", "dtype": "float32"}
    return artifact.write(made / "artifact", made / "code", [("weight", weights), ("bias", weights[0])], facts)


@st.composite
def manifest_edits(draw: st.DrawFn) -> tuple[list[str | int], Any] | tuple[int, int, bytes]:
    """A value in the place of another; or bytes in the place of others."""
    if draw(st.booleans()):
        return draw(st.integers(0, 900)), draw(st.integers(0, 20)), draw(st.binary(max_size=20))
    places: list[list[str | int]] = [
        ["format"], ["files"], ["files", "library.so"], ["files", "library.so", "bytes"], ["parameters"],
        ["parameters", 0], ["parameters", 0, "shape"], ["parameters", 1, "offset"], ["parameters", 1, "dtype"],
        ["files", "parameters.bin", "sha256"], ["kind"],
    ]  # fmt: skip
    return draw(st.sampled_from(places)), draw(VALUES)


def artifact_is_read_or_refused(folder: Path, edit: Any) -> None:
    path = folder / artifact.MANIFEST
    original = path.read_bytes()
    if len(edit) == 3:
        at, cut, put = edit
        changed = original[:at] + put + original[at + cut :]
    else:
        manifest = json.loads(original)
        *way, last = edit[0]
        holder = manifest
        for step in way:
            holder = holder[step]
        holder[last] = edit[1]
        changed = json.dumps(manifest).encode()
    path.write_bytes(changed)
    try:
        with contextlib.suppress(ArtifactError):
            found = artifact.read(folder)
            assert sum(view.nbytes for view in found.parameters) <= 2 * (folder / artifact.PARAMETERS).stat().st_size
        with pytest.raises(ArtifactError):  # kind "none", whatever else was changed
            artifact.load(folder)
    finally:
        path.write_bytes(original)


@given(manifest_edits())
@settings(max_examples=200, deadline=None)
def test_hostile_manifests(folder: Path, edit: Any) -> None:
    artifact_is_read_or_refused(folder, edit)


@pytest.mark.soak
@given(manifest_edits())
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_manifests(folder: Path, edit: Any) -> None:
    artifact_is_read_or_refused(folder, edit)


STEP = cast(TrainingStep, SimpleNamespace(augmentations=1, input_shape=(2,), num_classes=10))
GOOD = b"".join(
    map(bytes, encode(Message(KIND, arrays={"images": np.zeros((3, 2), np.float32), "labels": np.zeros(3, np.int64)})))
)


@st.composite
def datasets(draw: st.DrawFn) -> bytes:
    """A message with arrays of some types and shapes; or a real one with other bytes in it."""
    if draw(st.booleans()):
        at, cut = draw(st.integers(0, len(GOOD))), draw(st.integers(0, 20))
        return GOOD[:at] + draw(st.binary(max_size=20)) + GOOD[at + cut :]
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    arrays = {
        name: np.full(draw(shapes), draw(st.integers(0, 12)), draw(st.sampled_from(["float32", "int64", "uint8"])))
        for name in draw(st.sets(st.sampled_from(["images", "labels", "more"])))
    }
    return b"".join(map(bytes, encode(Message(draw(st.sampled_from([KIND, "x"])), {}, arrays))))


def dataset_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InputError):
        images, labels = read_examples(bytearray(data), STEP)
        assert images.dtype == np.float32 and images.shape == (len(labels), 2) and len(labels)
        assert 0 <= labels.min() <= labels.max() < 10


test_hostile_datasets = in_every_run(200, datasets())(dataset_is_read_or_refused)
test_100_000_hostile_datasets = pytest.mark.soak(in_every_run(100_000, datasets())(dataset_is_read_or_refused))
