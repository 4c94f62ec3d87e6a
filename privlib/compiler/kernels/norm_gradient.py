"""The gradient of group and layer normalization, and each example's gradient of scale and shift on the way.

With x̂ = (x − mean)/√(variance + ε) and h = g·γ, over the positions and channels of one group:
dx = (h − mean(h) − x̂·mean(h·x̂)) / √(variance + ε),   dγ_c = Σ_p g·x̂,   dβ_c = Σ_p g.
The group's means follow from dγ and dβ, so two passes over g are enough; mean and variance are computed again from x.
"""

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.norm import GroupNorm, column_sums, group_means
from privlib.compiler.target import Machine


def group_norm_gradient(machine: Machine, dtype: str, norm: GroupNorm) -> "tvm.tirx.PrimFunc":
    """Arguments: x, gamma (channels,), g, dx, dgamma (rows, channels), dbeta (rows, channels).

    Rows are examples, or for axes = "row" (layer norm) positions, whose sums an example still has to add up.
    """
    kernel, channels = Kernel(machine, dtype), norm.shape[-1]
    pixels, per_group, flat = norm.pixels, channels // norm.groups, (norm.rows, norm.pixels, channels)
    with kernel.function():
        whole_x, gamma = kernel.argument("x", norm.shape), kernel.argument("gamma", (channels,))
        whole_g, whole_dx = kernel.argument("g", norm.shape), kernel.argument("dx", norm.shape)
        dgamma = kernel.argument("dgamma", (norm.rows, channels))
        dbeta = kernel.argument("dbeta", (norm.rows, channels))
        x, g, dx = (kernel.view(whole, flat) for whole in (whole_x, whole_g, whole_dx))
        with T.parallel(norm.rows) as row:
            total, mean, root = (kernel.scratch((channels,)) for _ in range(3))
            mean_h, mean_hx = kernel.scratch((channels,)), kernel.scratch((channels,))

            def centred(p: Expression, c: Expression, lanes: int) -> Expression:
                return kernel.load(x, row, p, c, lanes=lanes) - kernel.load(mean, c, lanes=lanes)

            def square(p: Expression, c: Expression, lanes: int) -> Expression:
                value = T.Bind(centred(p, c, lanes))
                return value * value

            def normalized(p: Expression, c: Expression, lanes: int) -> Expression:
                return centred(p, c, lanes) * kernel.load(root, c, lanes=lanes)

            def upstream(p: Expression, c: Expression, lanes: int) -> Expression:
                return kernel.load(g, row, p, c, lanes=lanes)

            column_sums(kernel, pixels, channels, total, lambda p, c, lanes: kernel.load(x, row, p, c, lanes=lanes))
            group_means(kernel, pixels, norm.groups, per_group, total, mean)
            column_sums(kernel, pixels, channels, total, square)
            group_means(kernel, pixels, norm.groups, per_group, total, root)
            with T.serial(channels) as c:
                T.buffer_store(root, kernel.constant(1.0) / T.sqrt(root[c] + kernel.constant(norm.epsilon)), [c])

            for sums, means, term in (
                (dbeta, mean_h, upstream),
                (dgamma, mean_hx, lambda p, c, lanes: upstream(p, c, lanes) * normalized(p, c, lanes)),
            ):
                column_sums(kernel, pixels, channels, total, term)
                with T.serial(channels) as c:
                    T.buffer_store(sums, total[c], [row, c])
                    T.buffer_store(total, total[c] * gamma[c], [c])
                group_means(kernel, pixels, norm.groups, per_group, total, means)

            def apply(p: Expression, c: Expression, lanes: int) -> None:
                h = upstream(p, c, lanes) * kernel.load(gamma, c, lanes=lanes)
                correction = normalized(p, c, lanes) * kernel.load(mean_hx, c, lanes=lanes)
                value = (h - kernel.load(mean_h, c, lanes=lanes) - correction) * kernel.load(root, c, lanes=lanes)
                kernel.store(dx, value, row, p, c, lanes=lanes)

            with T.serial(pixels) as p:
                kernel.for_vectors(channels, lambda c, lanes: apply(p, c, lanes))
    return kernel.finish()
