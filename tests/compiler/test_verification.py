"""No code is handed out unchecked, and what is cached is reused for every weight of one structure."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from privlib.compiler import (
    VerificationError,
    compile_inference,
)
from privlib.compiler import inference as inference_module
from privlib.compiler.kernels import matmul
from tests.compiler.model_harness import batch, eager


def files(cache: Path) -> set[Path]:
    return set(cache.rglob("*"))


@pytest.fixture
def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Matrix products that lose what is negative."""
    right = matmul.matmul

    def lossy(machine: Any, dtype: str, shape: Any, epilogue: Any) -> Any:
        spoilt = type(epilogue)(epilogue.bias, epilogue.residual, "relu")
        return right(machine, dtype, shape, spoilt)

    monkeypatch.setattr(matmul, "matmul", lossy)
    yield


@pytest.mark.usefixtures("wrong_kernel")
def test_wrong_code_is_refused_and_not_kept(cache: Path) -> None:
    before = files(cache)
    for _ in range(2):  # the second time must not find it in the cache
        with pytest.raises(VerificationError, match="differ from eager PyTorch"):
            compile_inference(nn.Linear(13, 11), 2, (13,))
        assert {path for path in files(cache) - before if path.is_file()} == set()


def test_code_that_was_never_checked_is_checked_when_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill between build and check."""
    model = nn.Linear(17, 11)

    def killed(*_: Any) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(inference_module, "verify", killed)
        compile_inference(model, 2, (17,))
    calls: list[int] = []
    monkeypatch.setattr(inference_module, "verify", lambda *_: calls.append(1))
    compile_inference(model, 2, (17,))
    assert calls == [1]
    compile_inference(model, 2, (17,))
    assert calls == [1]


def test_one_structure_compiles_once_whatever_its_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nn.Linear(19, 11), nn.Linear(19, 11)
    compile_inference(first, 2, (19,))
    libraries = set((cache / "libraries").iterdir())

    def never(*_: Any) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(inference_module.pipeline, "build", never)
    x = batch(3, (19,))
    np.testing.assert_allclose(compile_inference(second, 2, (19,)).run(x), eager(second, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compile_inference(first, 2, (19,)).run(x), eager(first, x), rtol=1e-4, atol=1e-5)
    assert set((cache / "libraries").iterdir()) == libraries


def test_a_damaged_artifact_in_the_cache_is_written_again() -> None:
    model, x = nn.Linear(23, 11), batch(2, (23,))
    manifest = compile_inference(model, 2, (23,))._artifact.path / "parameters.bin"
    manifest.write_bytes(b"broken")
    np.testing.assert_allclose(compile_inference(model, 2, (23,)).run(x), eager(model, x), rtol=1e-4, atol=1e-5)
