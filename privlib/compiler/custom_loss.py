"""A loss given as a function: traced with its gradient by PyTorch, imported, put in the place of cross-entropy."""

import warnings
from collections.abc import Callable

import torch
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from privlib.compiler.errors import CompileError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Module(torch.nn.Module):
    def __init__(self, traced: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.traced(logits, labels)


def import_loss(loss: Loss, rows: int, classes: int, precision: str) -> relax.Function:
    """Relax function (logits (rows, classes), labels int64 (rows,)) → (losses (rows,), gradient of each by its logits).

    Raises CompileError where `loss` gives anything but one value an example, mixes examples, or cannot be imported.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator).to(getattr(torch, precision))
    labels = torch.randint(0, classes, (rows,), generator=generator)
    _check_examples(loss, logits, labels)

    def both(z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, pull, *_ = torch.func.vjp(lambda own: loss(own, y), z)
        return losses, pull(torch.ones_like(losses))[0]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own use of what it has deprecated
            traced = make_fx(both, decomposition_table=dict(core_aten_decompositions()))(logits, labels)
            program = torch.export.export(_Module(traced), (logits, labels)).run_decompositions()
        _check_operators(program)
        function = from_exported_program(program, run_ep_decomposition=False)["main"]
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise CompileError(
            f"the loss cannot be imported: {error}; write it with elementwise operations, sums and log_softmax"
        ) from error
    types = [str(field.dtype) for field in function.ret_ty.fields]
    if types != [precision, precision]:
        raise CompileError(f"the loss gives {types[0]} for {precision} logits; keep the logits' type")
    return function


def _check_operators(program: torch.export.ExportedProgram) -> None:
    """ValueError naming what TVM's importer does not know; it is asked first because it does not survive a refusal."""
    known = ExportedProgramImporter().convert_map
    calls = {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}
    unknown = sorted(name for name in calls if name not in known)
    if unknown:
        raise ValueError(f"it needs {', '.join(unknown)}")


def _check_examples(loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> None:
    losses = loss(logits, labels)
    if not isinstance(losses, torch.Tensor) or losses.shape != labels.shape:
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise CompileError(
            f"the loss gives {found} for {len(labels)} examples; it must give one value an example, neither summed nor "
            "averaged (reduction='none')"
        )
    others = torch.cat([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
    if not torch.allclose(losses, others, rtol=1e-4, atol=1e-6):
        raise CompileError("the loss of an example depends on the other examples of the batch, so it cannot be clipped")
