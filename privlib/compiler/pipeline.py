"""From lowered Relax to an executable: what is left is legalized, parameters' work is lifted out, memory is planned,
LLVM is called."""

import tvm
from tvm import relax

from privlib.compiler.kernels.builder import SCRATCH_BYTES
from privlib.compiler.target import Machine

# A reshape of dense memory stays an alias: legalized it would become a copy.
_KEPT = ["relax.reshape"]


def legalize(module: tvm.IRModule) -> tvm.IRModule:
    """Small operators that have no kernel of ours become TVM's default TIR; dead bindings go."""
    passes = [relax.transform.DeadCodeElimination(), relax.transform.LegalizeOps(skip_ops=_KEPT)]
    return tvm.transform.Sequential(passes)(module)


def lift_parameters(module: tvm.IRModule) -> tvm.IRModule:
    """Move all that depends on parameters alone to `main_transform_params`, which runs once."""
    return relax.transform.LiftTransformParams()(module)


def plan(module: tvm.IRModule) -> tvm.IRModule:
    """Explicit allocations with storage shared between tensors whose lives do not overlap, and calls the virtual
    machine understands."""
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
    return tvm.transform.Sequential(passes)(module)


def planned_bytes(module: tvm.IRModule, function: str = "main") -> int:
    """Bytes of storage that `plan` reserved for the tensors of one function (kernels' scratch not included)."""
    total = 0

    def visit(node: object) -> None:
        nonlocal total
        if isinstance(node, relax.Call) and getattr(node.op, "name", "") in (
            "relax.vm.alloc_storage",
            "relax.memory.alloc_storage",
        ):
            total += int(node.args[0].values[0])

    relax.analysis.post_order_visit(module[function], visit)
    return total


def scratch_bytes(module: tvm.IRModule, machine: Machine) -> int:
    """Bytes of working memory of the kernel that needs most of it, on all cores: each core keeps its own."""
    kernels = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    needed = [int(kernel.attrs[SCRATCH_BYTES]) for kernel in kernels if SCRATCH_BYTES in kernel.attrs]
    return max(needed, default=0) * machine.cores


def build(module: tvm.IRModule, machine: Machine) -> "relax.VMExecutable":
    """Planned module → executable for the virtual machine."""
    identity = tvm.transform.Sequential([])
    return relax.build(module, target=machine.tvm_target(), relax_pipeline=identity)
