"""compile_inference: PyTorch model → native code, checked against eager PyTorch, cached by content."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tvm

from privlib.compiler import library, pipeline
from privlib.compiler.canonicalize import canonicalize
from privlib.compiler.errors import CompileError, VerificationError
from privlib.compiler.fuse import fuse
from privlib.compiler.importer import import_model
from privlib.compiler.lower import lower
from privlib.compiler.rectified import join_rectified
from privlib.compiler.separable import join_separable
from privlib.compiler.target import Machine, machine, runs_here
from privlib.trusted import runtime
from privlib.trusted.model import CompiledModel

TOLERANCE = 1e-4  # relative L2 over the batch's logits, against eager PyTorch

STAGES = ("imported", "canonical", "fused", "lowered", "lifted", "planned")


def inference_stages(
    model: torch.nn.Module, batch_size: int, input_shape: Sequence[int] = (3, 32, 32), target: str = "native"
) -> dict[str, tvm.IRModule]:
    """The IRModule after each pass of `compile_inference`, by name in order: what a notebook prints."""
    return _passes(import_model(model, batch_size, input_shape).module, machine(target))


def _passes(imported: tvm.IRModule, cpu: Machine) -> dict[str, tvm.IRModule]:
    stages = {"imported": imported}
    stages["canonical"] = canonicalize(imported)
    stages["fused"] = join_rectified(join_separable(fuse(stages["canonical"])))
    stages["lowered"] = pipeline.legalize(lower(stages["fused"], cpu))
    stages["lifted"] = pipeline.lift_parameters(stages["lowered"])
    stages["planned"] = pipeline.plan(stages["lifted"])
    return stages


def compile_inference(
    model: torch.nn.Module,
    batch_size: int,
    input_shape: Sequence[int] = (3, 32, 32),
    target: str = "native",
    pixels: tuple[float, float] | None = None,
) -> CompiledModel:
    """Compile `model` (in evaluation mode; its training flags are left alone) for batches float32 (batch_size,
    *input_shape). pixels: (scale, shift), to take uint8 x as well, as x · scale + shift
    (`privlib.data.PIXELS` is what `preprocess` does).

    The code is built for `target` ("native", "x86-64-v3", "x86-64-v4") and cached by content: the same model structure
    compiles once. When it is built, its logits on a random batch must agree with eager PyTorch's within 1e-4 (relative
    L2). Raises UnsupportedOperatorError, CompileError, TargetError, VerificationError. A target that this CPU cannot
    run is refused here; `build_library` compiles it without loading.
    """
    cpu = machine(target)
    if not runs_here(cpu.level):
        raise CompileError(f"this CPU cannot run {cpu.level}, so the result could not be checked; use target='native'")
    if pixels is not None and not (len(pixels) == 2 and np.isfinite(pixels).all()):
        raise CompileError(f"pixels are two finite numbers (scale, shift), got {pixels!r}")
    imported = import_model(model, batch_size, input_shape)
    stages = _passes(imported.module, cpu)
    path, _ = library.build_library(stages["planned"], cpu)
    output_shape = tuple(int(extent) for extent in stages["planned"]["main"].ret_ty.shape)[1:]
    packed = _pack(path, cpu, list(imported.parameters.values()))
    facts = {
        "kind": "inference",
        "level": cpu.level,
        "batch_size": batch_size,
        "input_shape": list(input_shape),
        "output_shape": list(output_shape),
        "dtype": "float32",
        **({} if pixels is None else {"pixels": [float(number) for number in pixels]}),
        "memory": {"activation_bytes": pipeline.planned_bytes(stages["planned"])},
    }
    artifact = library.cached_artifact(path, [(f"packed{i}", array) for i, array in enumerate(packed)], facts)
    compiled = CompiledModel(artifact)
    library.verify_once(path, artifact, lambda: verify(model, compiled))
    return compiled


def verify(model: torch.nn.Module, compiled: CompiledModel, seed: int = 0) -> float:
    """Relative L2 distance of the compiled logits from eager PyTorch's; raises VerificationError above 1e-4.

    The random batch has one example more than a compiled batch, so that a padded piece is checked as well: a model that
    mixes the examples of a batch cannot be cut into pieces. CompileError where eager PyTorch refuses that batch.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(compiled.batch_size + 1, *compiled.input_shape, generator=generator)
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            expected = model(x).double()
    except RuntimeError as error:
        raise CompileError(
            f"the model runs at batch size {compiled.batch_size} only, not at {len(x)}: {error}"
        ) from error
    finally:
        for module, training in flags:
            module.training = training
    if expected.shape != (len(x), *compiled.output_shape):
        raise CompileError(
            f"a batch of {len(x)} gives an output {tuple(expected.shape)}: its first axis must be the batch"
        )
    found = torch.from_numpy(compiled.run(x.numpy())).double()
    difference = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    if not difference <= TOLERANCE:
        raise VerificationError(
            f"compiled logits differ from eager PyTorch's by {difference:.1e} (relative L2; at most {TOLERANCE:.0e} is "
            "allowed); if the model mixes the examples of a batch, change that, else please report it: a pass or "
            "kernel treats one of its operators wrongly"
        )
    return difference


def _pack(code: Path, cpu: Machine, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run the lifted function once: parameters in PyTorch's layouts → what main takes."""
    transform = runtime.virtual_machine(runtime.load_code(code, cpu.level))["main_transform_params"]
    return [packed.numpy() for packed in transform([tvm.runtime.tensor(array) for array in parameters])]
