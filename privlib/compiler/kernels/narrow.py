"""A linear layer with few outputs over many inputs (a linear head): its output, and the weighted sum of its gradients.

Y[b, o] = act(bias[o] + R[b, o] + Σ_k x[b, k] · W[o, k])        S[o, k] = Σ_b f_b · g[b, o] · x[b, k]

x is by far the largest operand, so it is read where it lies, unpacked: forward in vectors along the inputs, some rows
against all outputs in registers; for the sum a tile of all outputs by some vectors of inputs stays in registers while
the batch goes by. Rows of factor zero are left out of the sum: 0 · NaN must not poison it.
"""

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.conv_direct import Epilogue, Output
from privlib.compiler.kernels.rows import pairwise
from privlib.compiler.target import Machine

LONG = 1024  # inputs from which on vectors along them pay


def applies(machine: Machine, outputs: int) -> bool:
    """Whether a tile of that many outputs by one vector leaves registers for its operands."""
    return outputs <= _accumulators(machine)


def prefers(machine: Machine, inputs: int, outputs: int) -> bool:
    """Whether `dense` is the better forward product: a long reduction, and too few outputs to fill vectors."""
    return inputs >= LONG and 2 * outputs <= _accumulators(machine)


def _accumulators(machine: Machine) -> int:
    return 24 if machine.vector_bytes == 64 else 12


def dense(
    machine: Machine, dtype: str, rows: int, inputs: int, outputs: int, epilogue: Epilogue
) -> "tvm.tirx.PrimFunc":
    """Arguments: x (rows, inputs), W (outputs, inputs), [bias (outputs,)], [residual], Y (rows, outputs)."""
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    together = max(1, _accumulators(machine) // outputs)
    whole, rest = divmod(rows, together)
    with kernel.function():
        x, weight = kernel.argument("x", (rows, inputs)), kernel.argument("weight", (outputs, inputs))
        output = Output(kernel, epilogue, (rows, outputs))

        def tile(first: Expression, count: int) -> None:
            totals = kernel.registers(count * outputs * lanes)
            for position in range(count * outputs):
                kernel.store(totals, kernel.constant(0.0, lanes), position * lanes)

            def add(k: Expression, width: int) -> None:
                values = [T.Bind(kernel.load(x, first + r, k, lanes=width)) for r in range(count)]
                for o in range(outputs):
                    column = T.Bind(kernel.load(weight, o, k, lanes=width))
                    for r, value in enumerate(values):
                        at = (r * outputs + o) * lanes
                        kernel.store(totals, kernel.load(totals, at, lanes=width) + value * column, at, lanes=width)

            kernel.for_vectors(inputs, add)
            for r in range(count):
                for o in range(outputs):
                    parts = [totals[(r * outputs + o) * lanes + lane] for lane in range(lanes)]
                    output.store(pairwise(parts), first + r, o, lanes=1)

        if whole:
            with T.parallel(whole) as block:
                tile(block * together, together)
        if rest:
            tile(whole * together, rest)
    return kernel.finish()


def outer_sums(machine: Machine, dtype: str, batch: int, inputs: int, outputs: int) -> "tvm.tirx.PrimFunc":
    """Arguments: x (batch, inputs), g (batch, outputs), factors (batch,), sums (outputs, inputs)."""
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    vectors = max(1, _accumulators(machine) // outputs)
    width = vectors * lanes
    whole, rest = divmod(inputs, width)
    with kernel.function():
        x, g = kernel.argument("x", (batch, inputs)), kernel.argument("g", (batch, outputs))
        factors, sums = kernel.argument("factors", (batch,)), kernel.argument("sums", (outputs, inputs))

        def tile(first: Expression, columns: int) -> None:
            parts = [(at, min(lanes, columns - at)) for at in range(0, columns, lanes)]
            totals = kernel.registers(outputs * width)
            for position in range(outputs * vectors):
                kernel.store(totals, kernel.constant(0.0, lanes), position * lanes)
            with T.serial(batch) as b:
                factor = T.Bind(factors[b])
                with T.If(tirx.NE(factor, kernel.constant(0.0))), T.Then():
                    values = [T.Bind(kernel.load(x, b, first + at, lanes=part)) for at, part in parts]
                    for o in range(outputs):
                        scaled = T.Bind(g[b, o] * factor)
                        for (at, part), value in zip(parts, values, strict=True):
                            before = kernel.load(totals, o * width + at, lanes=part)
                            added = before + kernel.splat(scaled, part) * value
                            kernel.store(totals, added, o * width + at, lanes=part)
            for o in range(outputs):
                for at, part in parts:
                    kernel.store(sums, kernel.load(totals, o * width + at, lanes=part), o, first + at, lanes=part)

        if whole:
            with T.parallel(whole) as block:
                tile(block * width, width)
        if rest:
            tile(whole * width, rest)
    return kernel.finish()
