"""Group and layer normalization, channel-last: mean, then variance about it, then scale and shift, image by image in
the cache."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.conv_direct import Epilogue, activate
from privlib.compiler.kernels.rows import sum_of_row, tasks_of_rows
from privlib.compiler.target import Machine


@dataclass(frozen=True)
class GroupNorm:
    """A tensor (batch, …, channels) normalized, per example, over everything but the batch within each of `groups`
    channel groups.

    axes = "example" takes all positions of an example together (group norm); "row" takes each position alone (layer
    norm over the last axis, with groups = 1).
    """

    shape: tuple[int, ...]
    groups: int
    epsilon: float
    axes: str = "example"

    @property
    def rows(self) -> int:
        return self.shape[0] if self.axes == "example" else math.prod(self.shape[:-1])

    @property
    def pixels(self) -> int:
        return math.prod(self.shape[1:-1]) if self.axes == "example" else 1


def column_sums(
    kernel: Kernel, pixels: int, channels: int, total: Any, value: Callable[[Expression, Expression, int], Expression]
) -> None:
    """total[c] = Σ over pixels of value(pixel, c), summed in blocks to keep rounding small."""
    block = next(b for b in (64, 49, 32, 28, 16, 14, 8, 7, 4, 2, 1) if pixels % b == 0)

    def column(c: Expression, lanes: int) -> None:
        outer, inner = kernel.registers(lanes), kernel.registers(lanes)

        def add(target: Any, term: Expression) -> None:
            kernel.store(target, kernel.load(target, 0, lanes=lanes) + term, 0, lanes=lanes)

        kernel.store(outer, kernel.constant(0.0, lanes), 0, lanes=lanes)
        with T.serial(pixels // block) as pb:
            kernel.store(inner, kernel.constant(0.0, lanes), 0, lanes=lanes)
            with T.serial(block) as p:
                add(inner, value(pb * block + p, c, lanes))
            add(outer, kernel.load(inner, 0, lanes=lanes))
        kernel.store(total, kernel.load(outer, 0, lanes=lanes), c, lanes=lanes)

    kernel.for_vectors(channels, column)


def group_means(kernel: Kernel, pixels: int, groups: int, per_group: int, total: Any, target: Any) -> None:
    """target[c] = mean of total over pixels and over the group of c."""
    with T.serial(groups) as g:
        mean = kernel.registers(1)
        T.buffer_store(mean, kernel.constant(0.0), [0])
        with T.serial(per_group) as c:
            T.buffer_store(mean, mean[0] + total[g * per_group + c], [0])
        with T.serial(per_group) as c:
            T.buffer_store(target, mean[0] / kernel.constant(float(pixels * per_group)), [g * per_group + c])


def group_norm(machine: Machine, dtype: str, norm: GroupNorm, epilogue: Epilogue) -> "tvm.tirx.PrimFunc":
    """Arguments: input, gamma (channels,), beta (channels,), [residual], output. The epilogue's bias is beta's place
    and not used."""
    if norm.axes == "row" and norm.groups == 1:
        return _row_norm(machine, dtype, norm, epilogue)
    kernel, channels = Kernel(machine, dtype), norm.shape[-1]
    pixels, flat = norm.pixels, (norm.rows, norm.pixels, channels)
    with kernel.function():
        whole = kernel.argument("input", norm.shape)
        gamma, beta = kernel.argument("gamma", (channels,)), kernel.argument("beta", (channels,))
        added = kernel.argument("residual", norm.shape) if epilogue.residual else None
        result = kernel.argument("output", norm.shape)
        source, output = kernel.view(whole, flat), kernel.view(result, flat)
        residual = kernel.view(added, flat) if added is not None else None
        with T.parallel(norm.rows) as row:
            total, scale, mean = kernel.scratch((channels,)), kernel.scratch((channels,)), kernel.scratch((channels,))

            def centred(p: Expression, c: Expression, lanes: int) -> Expression:
                return kernel.load(source, row, p, c, lanes=lanes) - kernel.load(mean, c, lanes=lanes)

            def square(p: Expression, c: Expression, lanes: int) -> Expression:
                value = T.Bind(centred(p, c, lanes))
                return value * value

            def apply(p: Expression, c: Expression, lanes: int) -> None:
                value = centred(p, c, lanes) * kernel.load(scale, c, lanes=lanes) + kernel.load(beta, c, lanes=lanes)
                if residual is not None:
                    value = value + kernel.load(residual, row, p, c, lanes=lanes)
                kernel.store(output, activate(kernel, value, epilogue.activation, lanes), row, p, c, lanes=lanes)

            column_sums(
                kernel, pixels, channels, total, lambda p, c, lanes: kernel.load(source, row, p, c, lanes=lanes)
            )
            group_means(kernel, pixels, norm.groups, channels // norm.groups, total, mean)
            column_sums(kernel, pixels, channels, total, square)
            group_means(kernel, pixels, norm.groups, channels // norm.groups, total, scale)
            with T.serial(channels) as c:
                T.buffer_store(scale, gamma[c] / T.sqrt(scale[c] + kernel.constant(norm.epsilon)), [c])
            with T.serial(pixels) as p:
                kernel.for_vectors(channels, lambda c, lanes: apply(p, c, lanes))
    return kernel.finish()


def _row_norm(machine: Machine, dtype: str, norm: GroupNorm, epilogue: Epilogue) -> "tvm.tirx.PrimFunc":
    """`group_norm` of every row alone: one mean and one root a row, everything else in vectors."""
    kernel, (rows, channels) = Kernel(machine, dtype), (norm.rows, norm.shape[-1])
    with kernel.function():
        whole = kernel.argument("input", norm.shape)
        gamma, beta = kernel.argument("gamma", (channels,)), kernel.argument("beta", (channels,))
        added = kernel.argument("residual", norm.shape) if epilogue.residual else None
        result = kernel.argument("output", norm.shape)
        source, output = kernel.view(whole, (rows, channels)), kernel.view(result, (rows, channels))
        residual = kernel.view(added, (rows, channels)) if added is not None else None
        tasks, chunk = tasks_of_rows(rows)
        with T.parallel(tasks) as task, T.serial(chunk) as r:
            row = T.Bind(task * chunk + r)
            share = kernel.constant(1.0 / channels)
            mean = T.Bind(sum_of_row(kernel, channels, lambda c, n: kernel.load(source, row, c, lanes=n)) * share)

            def centred(c: Expression, lanes: int) -> Expression:
                return T.Bind(kernel.load(source, row, c, lanes=lanes) - kernel.splat(mean, lanes))

            def square(c: Expression, lanes: int) -> Expression:
                value = centred(c, lanes)
                return value * value

            variance = sum_of_row(kernel, channels, square) * share
            scale = T.Bind(kernel.constant(1.0) / T.sqrt(variance + kernel.constant(norm.epsilon)))

            def apply(c: Expression, lanes: int) -> None:
                value = centred(c, lanes) * kernel.splat(scale, lanes) * kernel.load(gamma, c, lanes=lanes)
                value = value + kernel.load(beta, c, lanes=lanes)
                if residual is not None:
                    value = value + kernel.load(residual, row, c, lanes=lanes)
                kernel.store(output, activate(kernel, value, epilogue.activation, lanes), row, c, lanes=lanes)

            kernel.for_vectors(channels, apply)
    return kernel.finish()
