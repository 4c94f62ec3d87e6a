"""The three heavy kernels of a training step, each alone, beside the machine's own peak of fused multiply-adds.

For every 3×3 convolution of a network: the forward convolution, the data gradient, and the weight gradient as the step
uses it (each example's, kept, where norms are taken by `instantiate`; else the sum). The direct kernels as shares of
the peak; Winograd, where the cost model prefers it, as the rate of direct work that it stands for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.cases import ModelName
from privlib.compiler import costs
from privlib.compiler.kernels import conv_direct, strided_gradient, weight_gradient, winograd, winograd_gradient
from privlib.compiler.kernels.builder import Kernel
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine, machine
from privlib.suite import record
from privlib.suite.timing import interleave
from privlib.trusted.runtime import tvm_runtime, use_all_cores

DTYPE = "float32"
_LOOPS = 1 << 21  # of the peak's inner loop: some milliseconds


@dataclass(frozen=True)
class Candidate:
    """One kernel: its column's name, the function, the shapes of its arguments, the products it stands for times 2."""

    name: str
    function: Any
    shapes: Sequence[tuple[int, ...]]
    flops: int


def measure(shapes: Mapping[str, Conv2d], rounds: int, turn_seconds: float) -> None:
    """Record rates of each convolution's kernels, by name, and the peak of the same rounds."""
    use_all_cores()
    cpu, peaks = machine(), list[float]()
    for row, shape in shapes.items():
        found = [peak(cpu), *candidates(cpu, shape)]
        seconds = interleave(_calls(cpu, found), rounds, turn_seconds)
        rates = {each.name: [each.flops / second / 1e9 for second in seconds[each.name]] for each in found}
        peaks += rates.pop("peak")
        for role in sorted({name.rsplit("_", 1)[0] for name in rates}):
            family = "winograd" if f"{role}_winograd" in rates else "direct"
            record.metric(f"{row}/{role}/family", family, "", nature="deterministic")
        for name, values in rates.items():
            record.samples(f"{row}/{name}/flop_rate", values, "GFLOP/s", higher_is_better=True)
            if name.endswith("direct"):
                shares = [value / most for value, most in zip(values, peaks[-rounds:], strict=True)]
                record.samples(f"{row}/{name}/share_of_peak", shares, "", higher_is_better=True)
    record.samples("machine/fma_peak/flop_rate", peaks, "GFLOP/s", higher_is_better=True)


def convolutions(model_name: ModelName, batch_size: int) -> dict[str, Conv2d]:
    """The distinct 3×3 convolutions of a network by name: channels in and out, extent of the input, stride 2."""
    import torch

    from privlib import models

    found: dict[str, Conv2d] = {}

    def see(module: Any, inputs: Any, _: Any) -> None:
        channels, height, width = inputs[0].shape[1:]
        stride = module.stride
        name = f"conv_{channels}_{module.out_channels}_{height}x{width}" + ("_stride2" if stride[0] == 2 else "")
        padding = tuple(module.padding) * 2
        found[name] = Conv2d(batch_size, height, width, channels, module.out_channels, (3, 3), stride, padding)

    model = models.build(model_name)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(see)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return found


def candidates(cpu: Machine, shape: Conv2d) -> list[Candidate]:
    """Direct kernels of a convolution, and the Winograd kernels that the cost model prefers to them."""
    found = _convolution(cpu, "forward", shape)
    if shape.c_in > 3 and shape.stride == (1, 1):
        back = replace(shape, c_in=shape.c_out, c_out=shape.c_in)
        found += _convolution(cpu, "data_gradient", back)
    elif shape.c_in > 3:
        function = strided_gradient.data_gradient(cpu, DTYPE, shape)
        packed = strided_gradient.packed_shape(cpu, DTYPE, shape)
        sizes = [_output(shape), packed, _input(shape)]
        found.append(Candidate("data_gradient_direct", function, sizes, shape.flops))
    return found + _weight_gradient(cpu, shape)


def _convolution(cpu: Machine, name: str, shape: Conv2d) -> list[Candidate]:
    families = {"direct": conv_direct, "winograd": winograd}
    chosen = {"direct", costs.choose_conv(cpu, DTYPE, shape)}
    return [
        Candidate(
            f"{name}_{family}",
            families[family].conv2d(cpu, DTYPE, shape, conv_direct.Epilogue()),
            [_input(shape), families[family].packed_shape(cpu, DTYPE, shape), _output(shape)],
            shape.flops,
        )
        for family in sorted(chosen)
    ]


def _weight_gradient(cpu: Machine, shape: Conv2d) -> list[Candidate]:
    mode = "kept" if costs.choose_norm(cpu, DTYPE, shape) == "instantiate" else "summed"
    one, examples = weight_gradient.gradient_shape(shape), (shape.batch,)
    rest = [(shape.batch, *one), examples] if mode == "kept" else [examples, (cpu.cores, *one)]
    families = {"direct": weight_gradient, "winograd": winograd_gradient}
    chosen = {"direct", costs.choose_weight_gradient(cpu, DTYPE, shape, mode)}
    return [
        Candidate(
            f"weight_gradient_{mode}_{family}",
            families[family].weight_gradient(cpu, DTYPE, shape, mode),
            [_input(shape), _output(shape), *rest],
            shape.flops,
        )
        for family in sorted(chosen)
    ]


def peak(cpu: Machine) -> Candidate:
    """a ← a·x + y on every core, in as many registers as there are beside x and y: nothing but multiply-adds."""
    from tvm.tirx.script.builder import ir as T

    kernel, lanes = Kernel(cpu, DTYPE), cpu.lanes(DTYPE)
    registers = 28 if cpu.vector_bytes == 64 else 12
    with kernel.function():
        x, y = kernel.argument("x", (lanes,)), kernel.argument("y", (lanes,))
        result = kernel.argument("result", (cpu.cores, registers * lanes))
        with T.parallel(cpu.cores) as core:
            factor, term = T.Bind(kernel.load(x, 0)), T.Bind(kernel.load(y, 0))
            sums = kernel.registers(registers * lanes)
            for r in range(registers):
                kernel.store(sums, kernel.constant(float(r), lanes), r * lanes)
            with T.serial(_LOOPS):
                for r in range(registers):
                    kernel.store(sums, kernel.load(sums, r * lanes) * factor + term, r * lanes)
            for r in range(registers):
                kernel.store(result, kernel.load(sums, r * lanes), core, r * lanes)
    flops = 2 * lanes * registers * _LOOPS * cpu.cores
    return Candidate("peak", kernel.finish(), [(lanes,), (lanes,), (cpu.cores, registers * lanes)], flops)


def _calls(cpu: Machine, found: Sequence[Candidate]) -> dict[str, Callable[[], object]]:
    """Each kernel compiled, with arguments of its own."""
    import tvm

    runtime, random = tvm_runtime(), np.random.default_rng(0)
    module = tvm.IRModule({each.name: each.function.with_attr("global_symbol", each.name) for each in found})
    library = tvm.compile(module, target=cpu.tvm_target())

    def call(each: Candidate) -> Callable[[], object]:
        arguments = [runtime.tensor(random.random(shape, dtype=np.float32)) for shape in each.shapes]
        function = library[each.name]
        return lambda: function(*arguments)

    return {each.name: call(each) for each in found}


def _input(shape: Conv2d) -> tuple[int, ...]:
    return (shape.batch, shape.height, shape.width, shape.c_in)


def _output(shape: Conv2d) -> tuple[int, ...]:
    return (shape.batch, shape.out_height, shape.out_width, shape.c_out)
