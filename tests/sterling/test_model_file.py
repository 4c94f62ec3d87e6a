"""Model files from strangers: nothing in them runs, whatever they ask PyTorch to do."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from privlib import models
from privlib.sterling.errors import JobRefused
from privlib.sterling.model_file import check_model, read_model, write_model

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def genuine() -> bytes:
    torch.manual_seed(0)
    return write_model(models.build("small_cnn"), SHAPE)


def test_a_model_comes_back_for_any_batch(genuine: bytes) -> None:
    torch.manual_seed(0)
    model, again = models.build("small_cnn").eval(), read_model(genuine)
    for batch in (1, 2, 5):
        images = torch.randn(batch, *SHAPE)
        torch.testing.assert_close(again(images), model(images))
    assert list(again.state_dict()) == list(model.state_dict())
    assert b"/privlib/models.py" not in genuine  # where the consumer's sources lie


def test_the_suite_s_models_are_taken() -> None:
    for model in (models.build("resnet32"), models.build("mobilenet", norm="group"), models.build("vgg9")):
        check_model(write_model(model, SHAPE))


class Evil:
    """Its pickle makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


Files = dict[str, bytes]


def rewritten(genuine: bytes, change: Callable[[Files], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(genuine)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def _replacing(files: Files) -> Callable[[Files], None]:
    return lambda found: found.update(files)


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        value = json.loads(files[name])
        change(value)
        files[name] = json.dumps(value).encode()

    return edit


PROGRAM, WEIGHTS = "archive/models/model.json", "archive/data/weights/model_weights_config.json"


def nodes(value: Any) -> Any:
    return value["graph_module"]["graph"]["nodes"]


def symbol(value: Any) -> None:
    text = json.dumps(value)
    start = text.index('"expr_str": "') + len('"expr_str": "')
    end = text.index('"', start)
    value.clear()
    value.update(json.loads(text[:start] + "__import__('os').getcwd()" + text[end:]))


ATTACKS: dict[str, Callable[[Files], None]] = {
    "a pickled weight": in_json(WEIGHTS, lambda value: value["config"]["classifier.1.bias"].update(use_pickle=True)),
    "a function of Python's": in_json(PROGRAM, lambda value: nodes(value)[0].update(target="torch.hub.load")),
    "an operator of the file's own": in_json(
        PROGRAM, lambda value: nodes(value)[0].update(target="torch.ops.own.op.x")
    ),
    "an expression that calls": in_json(PROGRAM, symbol),
    "a guard": in_json(PROGRAM, lambda value: value.update(guards_code=["__import__('os')"])),
    "metadata that name functions": in_json(
        PROGRAM, lambda value: nodes(value)[0]["metadata"].update(source_fn_stack="x,torch.hub.load")
    ),
    "a subgraph": in_json(PROGRAM, lambda value: nodes(value)[0]["inputs"].append({"name": "x", "as_graph": {}})),
    "arguments of a class": in_json(
        PROGRAM,
        lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "os.system", "context": "null", "children_spec": []}]'
        ),
    ),
    "another member": lambda files: files.update({"archive/data/constants/custom_obj_0": b""}),
    "weights in the old format": lambda files: files.update({"archive/data/weights/model.pt": b""}),
    "a path": lambda files: files.update({"../archive/byteorder": b""}),
    "deep nesting": lambda files: files.update({PROGRAM: b"[" * 100_000}),
    "no program": lambda files: files.update({PROGRAM: b"{"}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_could_run_is_refused_before_anything_is_loaded(name: str, genuine: bytes) -> None:
    hostile = rewritten(genuine, ATTACKS[name])
    with pytest.raises(JobRefused, match="taken from strangers"):
        check_model(hostile)


def test_sample_inputs_are_not_unpickled(genuine: bytes, tmp_path: Path) -> None:
    """The one pickle that a file must have: PyTorch's restricted reader takes it, or nobody."""
    ran = tmp_path / "ran"
    file = io.BytesIO()
    torch.save({"x": Evil(ran)}, file)
    for data in (file.getvalue(), pickle.dumps(Evil(ran))):
        sample = {"archive/data/sample_inputs/model.pt": data}
        hostile = rewritten(genuine, _replacing(sample))
        with pytest.raises(JobRefused, match="no torch.export file that loads"):
            read_model(hostile)
        assert not ran.exists()
    torch.load(io.BytesIO(file.getvalue()), weights_only=False)  # the attack itself works
    assert ran.exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"junk" * 100])
def test_what_is_no_file_is_refused(data: bytes) -> None:
    with pytest.raises(JobRefused):
        read_model(data)
