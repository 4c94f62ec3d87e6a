"""Softmax cross-entropy, one loss an example, and its gradient: softmax(logits) − one-hot(label)."""

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Kernel
from privlib.compiler.target import Machine


def cross_entropy(machine: Machine, dtype: str, batch: int, classes: int, scale: float = 1.0) -> "tvm.tirx.PrimFunc":
    """Arguments: logits (batch, classes), labels int64 (batch,) in [0, classes), losses (batch,), gradient like logits.

    The gradient is multiplied by `scale`, the losses are not.
    The largest logit is subtracted before the exponential, so no finite logit overflows. Who calls checks the labels.
    """
    kernel = Kernel(machine, dtype)
    with kernel.function():
        logits, labels = kernel.argument("logits", (batch, classes)), kernel.argument("labels", (batch,), "int64")
        losses, gradient = kernel.argument("losses", (batch,)), kernel.argument("gradient", (batch, classes))
        with T.parallel(batch) as row:
            largest, total = kernel.registers(1), kernel.registers(1)
            T.buffer_store(largest, logits[row, 0], [0])
            T.buffer_store(total, kernel.constant(0.0), [0])
            with T.serial(classes) as c:
                T.buffer_store(largest, T.max(largest[0], logits[row, c]), [0])
            with T.serial(classes) as c:
                T.buffer_store(gradient, T.exp(logits[row, c] - largest[0]), [row, c])
                T.buffer_store(total, total[0] + gradient[row, c], [0])
            label = T.Bind(labels[row])
            T.buffer_store(losses, T.log(total[0]) + largest[0] - logits[row, label], [row])
            with T.serial(classes) as c:
                hot = T.if_then_else(tirx.EQ(label, T.cast(c, "int64")), kernel.constant(1.0), kernel.constant(0.0))
                value = gradient[row, c] / total[0] - hot
                T.buffer_store(gradient, value if scale == 1.0 else value * kernel.constant(scale), [row, c])
    return kernel.finish()
