"""float64 vector arithmetic that AVX2 has no instruction for: logarithm, sine, cosine, conversion from and to int64.

`T.log` and `T.sin` on a vector become one call per element, many times the cost of the random bits they turn into
noise, and their last digits depend on the library linked. What is here is straight-line vector code, with no table,
branch or call. The polynomials are fdlibm's (Sun Microsystems 1993: e_log.c, k_sin.c, k_cos.c), whose errors are below
2⁻⁵⁸ of the result; with rounding, logarithm, sine and cosine are within 1e-15 relative (tested against 80-bit floats).

A float64 near 1.5 · 2⁵² has a spacing of one, so adding that constant rounds to an integer (ties to even), which the
low bits then hold.
"""

import math
from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression

_LOG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
_SINE = (
    -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
_COSINE = (
    4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD  # √½ as float64
_SHIFT = 1024  # keeps the exponent field of every normal float64 positive, where only a logical shift exists
_TO_INTEGER, _TO_INTEGER_BITS = 1.5 * 2.0**52, 0x4338000000000000
_TWO_52_BITS, _TWO_84_BITS = 0x4330000000000000, 0x4530000000000000


def real(value: float, lanes: int) -> Expression:
    # not T.float64(value): that refuses what float32 cannot hold
    return T.broadcast(tirx.FloatImm("float64", value), lanes)


def bits(value: int, lanes: int) -> Expression:
    """A constant below 2⁶³ as uint64."""
    return T.broadcast(T.uint64(value), lanes)


def as_bits(value: Expression, lanes: int) -> Expression:
    return T.Bind(T.reinterpret(f"uint64x{lanes}", value))


def as_real(value: Expression, lanes: int) -> Expression:
    return T.Bind(T.reinterpret(f"float64x{lanes}", value))


def as_integer(value: Expression, lanes: int) -> Expression:
    return T.Bind(T.reinterpret(f"int64x{lanes}", value))


def _series(coefficients: Sequence[float], x: Expression, lanes: int) -> Expression:
    """Σ coefficient_k · x^k (Horner)."""
    result = real(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        result = T.Bind(result * x + real(coefficient, lanes))
    return result


def log(value: Expression, lanes: int, halvings: int = 0) -> Expression:
    """Natural logarithm of value / 2^halvings, value positive, normal, finite.

    value = 2ᵉ · (1 + f) with 1 + f in [√½, √2); log(1 + f) = f − s · (f − R(s²)), s = f / (2 + f). Near one e is 0, and
    no digits cancel.
    """
    raw = as_bits(value, lanes)
    shift, root = bits(_SHIFT, lanes), bits(_SQRT_HALF_BITS, lanes)
    field = T.Bind(T.shift_right(raw + (bits(_SHIFT << 52, lanes) - root), bits(52, lanes)))  # e + _SHIFT
    f = T.Bind(as_real(raw - T.shift_left(field - shift, bits(52, lanes)), lanes) - real(1.0, lanes))
    exponent = as_real(T.bitwise_or(field, bits(_TWO_52_BITS, lanes)), lanes) - real(2.0**52 + _SHIFT + halvings, lanes)
    s = T.Bind(f / (f + real(2.0, lanes)))
    square = T.Bind(s * s)
    rest = T.Bind(square * _series(_LOG, square, lanes))
    return T.Bind(exponent * real(math.log(2), lanes) + (f - s * (f - rest)))


def sine(x: Expression, lanes: int) -> Expression:
    """Of |x| ≤ π/4."""
    square = T.Bind(x * x)
    return T.Bind(x + x * square * _series(_SINE, square, lanes))


def cosine(x: Expression, lanes: int) -> Expression:
    """Of |x| ≤ π/4."""
    square = T.Bind(x * x)
    return T.Bind(real(1.0, lanes) - square * (real(0.5, lanes) - square * _series(_COSINE, square, lanes)))


def _halves(value: Expression, lanes: int, flip: int = 0) -> tuple[Expression, Expression]:
    """uint64 → float64 2⁸⁴ + (upper half, exclusive-or `flip`) · 2³², and 2⁵² + lower half; both exact."""
    low = T.bitwise_or(T.bitwise_and(value, bits(0xFFFFFFFF, lanes)), bits(_TWO_52_BITS, lanes))
    high = T.bitwise_xor(T.shift_right(value, bits(32, lanes)), bits(_TWO_84_BITS + flip, lanes))
    return as_real(high, lanes), as_real(low, lanes)


def float_of_unsigned(value: Expression, fraction: Expression, lanes: int) -> Expression:
    """uint64 + fraction, where fraction is float64 in [0, 1) with at most 20 bits, rounded once to float64."""
    high, low = _halves(value, lanes)
    return T.Bind((high - real(2.0**84, lanes)) + ((low - real(2.0**52, lanes)) + fraction))


def float_of_integer(value: Expression, lanes: int) -> Expression:
    """int64 → float64, rounded once."""
    high, low = _halves(as_bits(value, lanes), lanes, 1 << 31)
    return T.Bind((high - real(2.0**84 + 2.0**63 + 2.0**52, lanes)) + low)


def nearest_integer(value: Expression, lanes: int) -> Expression:
    """float64, each |x| < 2⁵¹, → int64, ties to even."""
    lifted = as_integer(value + real(_TO_INTEGER, lanes), lanes)
    return T.Bind(lifted - T.broadcast(T.int64(_TO_INTEGER_BITS), lanes))


def nearest_large_integer(value: Expression, lanes: int) -> Expression:
    """float64, each |x| < 2⁶², → int64, ties to even: the multiple of 2³² that is nearest, and the rest."""
    lifted = as_bits(value * real(2.0**-32, lanes) + real(_TO_INTEGER, lanes), lanes)
    # back through the bits: TVM's simplifier takes (x + c) - c for x, in floating point too
    multiple = as_real(lifted, lanes) - real(_TO_INTEGER, lanes)
    rest = T.Bind(value - multiple * real(2.0**32, lanes))
    upper = as_integer(T.shift_left(lifted, bits(32, lanes)), lanes)
    return T.Bind(upper + nearest_integer(rest, lanes))
