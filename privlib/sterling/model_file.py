"""A model as a `torch.export` file, written without what is nobody's business, read from whoever sent it.

`torch.export.load` is no reader for strangers' files: it unpickles what the file asks it to, evaluates its shape
expressions, and resolves its operators by name. So a file is first held against the little that a model of this project
needs, and everything else in it is refused:

| part                      | what is taken                                                                          |
|---------------------------|----------------------------------------------------------------------------------------|
| members                   | weights and constants as raw bytes, the program, sample inputs, version marks          |
| weights, constants        | none that is pickled                                                                   |
| operators                 | `torch.ops.aten` alone                                                                 |
| arguments                 | no subgraphs, operators or custom objects                                              |
| shape expressions         | symbols, whole numbers, sums and products                                              |
| guards, other metadata    | none                                                                                   |
| sample inputs             | what `torch.load(weights_only=True)` takes                                             |
"""

import io
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch

from privlib.sterling.errors import JobRefused
from privlib.trusted.bounded_json import read_json

MAXIMUM_BYTES = 1 << 30
_MEMBER = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|\.data/(version|serialization_id)"
    r"|byteorder)"
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+")
_EXPRESSION = re.compile(r"(?:Symbol\('[su]\d+'(?:, [a-z]+=True)*\)|[su]\d+|Mul|Add|Integer|[-+*\d(), ])+")
_METADATA = {"nn_module_stack", "torch_fn"}
_ARGUMENTS = {"as_graph", "as_graphs", "as_operator", "as_custom_obj", "as_string", "as_string_to_argument"}
_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_turn = threading.Lock()


def write_model(model: torch.nn.Module, input_shape: Sequence[int]) -> bytes:
    """The file of a model for any batch of float32 (batch, *input_shape). Raises JobRefused where torch.export does, or
    the model needs more than is read again."""
    example, batch = torch.zeros(2, *input_shape), torch.export.Dim("batch")
    file = io.BytesIO()
    try:
        program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
        for node in program.graph.nodes:  # where the sources lie on the consumer's machine
            node.meta = {name: value for name, value in node.meta.items() if name not in ("stack_trace", "from_node")}
        with _quiet():
            torch.export.save(program, file)
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise JobRefused(f"torch.export refuses the model: {error}") from error
    check_model(file.getvalue())
    return file.getvalue()


def read_model(data: bytes) -> torch.nn.Module:
    """The model of a file that nobody vouches for. Raises JobRefused."""
    check_model(data)
    try:
        with _quiet(), _nothing_unpickled():
            model = torch.export.load(io.BytesIO(data)).module(check_guards=False)
    except Exception as error:
        raise JobRefused(f"no torch.export file that loads: {error}") from error
    for name in ("train", "eval"):  # an exported program has one mode, and refuses to be asked for it
        setattr(model, name, MethodType(lambda module, *_: module, model))
    return model


def check_model(data: bytes) -> None:
    """Raise JobRefused for a file with anything but what the table above takes; nothing of it is loaded."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len({info.filename for info in infos}) != len(infos) or sum(i.file_size for i in infos) > MAXIMUM_BYTES:
                raise ValueError("a member twice, or too many bytes")
            for info in infos:
                if not _MEMBER.fullmatch(info.filename) or info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"member {info.filename!r:.80}")
            texts = {info.filename: archive.read(info) for info in infos if info.filename.endswith(".json")}
        for name, text in texts.items():
            _check(read_json(text), name)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise JobRefused(f"the model is no torch.export file that is taken from strangers: {error}") from None


def _check(value: Any, name: str) -> None:
    """Every object in a text, by its entries' names."""
    if isinstance(value, list):
        for each in value:
            _check(each, name)
    if not isinstance(value, dict):
        return
    for key, each in value.items():
        if key in _ARGUMENTS or (key == "use_pickle" and each is not False) or (key == "guards_code" and each):
            raise ValueError(f"{key} in {name}")
        if key == "target" and not _OPERATOR.fullmatch(str(each)):
            raise ValueError(f"operator {each!r:.80}")
        if key == "expr_str" and not _EXPRESSION.fullmatch(str(each)):
            raise ValueError(f"shape {each!r:.80}")
        if key == "metadata" and each and not set(each) <= _METADATA:
            raise ValueError(f"metadata {sorted(each)!r:.80}")
        if key in ("in_spec", "out_spec") and each:
            _check_tree(read_json(str(each)))
        _check(each, name)


def _check_tree(value: Any) -> None:
    """The shape of arguments and results: tuples, lists and dicts."""
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _check_tree(each)
    if isinstance(value, dict) and value.get("type") not in _TYPES:
        raise ValueError(f"arguments of type {value.get('type')!r:.80}")


@contextmanager
def _nothing_unpickled() -> Iterator[None]:
    """`torch.load` takes plain tensors alone, whatever its caller says (PyTorch's own switch for that)."""
    with _turn:
        before = os.environ.get(_FORCE)
        os.environ[_FORCE] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FORCE]
            else:
                os.environ[_FORCE] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's own use of what it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
        yield
