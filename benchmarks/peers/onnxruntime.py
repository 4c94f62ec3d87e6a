"""ONNX Runtime, CPU provider, all graph optimisations, the model exported by torch.onnx."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.cases import Case
from privlib.suite import system

PRECISION = "float32"


def unavailable() -> str | None:
    """ONNX Runtime and the exporter are in the extra `peers`."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (pip install 'privlib[peers]')." if missing else None


def versions() -> dict[str, str]:
    """ONNX Runtime's version."""
    return {"onnxruntime": importlib.import_module("onnxruntime").__version__}


def inference(case: Case) -> Callable[[], Any]:
    """Logits of the case's batch as an array (batch_size, num_classes)."""
    import torch

    from privlib.models import fold_batch_norm

    runtime = importlib.import_module("onnxruntime")
    path = case.folder / "model.onnx"
    images = case.input()
    model = fold_batch_norm(case.model())
    torch.onnx.export(model, (torch.from_numpy(images),), path, input_names=["images"], dynamo=False, verbose=False)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = system.available_cores()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spin while a run lasts, as by default, but not into the next peer's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})[0]
