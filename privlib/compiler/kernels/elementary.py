"""Logarithm, sine and cosine in float64 as vectors: polynomials in TIR, without calls into a math library.

`T.log` and `T.sin` on a vector become one call per element, many times the cost of the random bits they turn into
noise, and their last digits depend on the library linked. The polynomials here are plain power series on a reduced
range, cut where the rest is below 1e-15 (tested: logarithm 2e-15 relative, sine and cosine 2e-15 absolute).
"""

import math
from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression

_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD  # √½ as float64
_MANTISSA = (1 << 52) - 1
# ln m = 2·artanh s, s = (m − 1)/(m + 1): for m in [√½, √2) s² < 0.0295, and the first term left out is below 1e-15
_LOG = [2.0 / (2 * k + 1) for k in range(9)]
# on [−π/2, π/2] the first terms left out are below 1e-15 (sine) and 1e-16 (cosine)
_SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(10)]
_COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(11)]
_TO_INTEGER = 1.5 * 2.0**52  # a float64 of this size has spacing 1: adding it rounds to an integer
_TO_INTEGER_BITS = 0x4338000000000000


def _wide(value: float, lanes: int) -> Expression:
    return T.broadcast(T.float64(value), lanes)


def _integers(value: int, lanes: int) -> Expression:
    return T.broadcast(T.int64(value), lanes)


def _series(coefficients: Sequence[float], x: Expression, lanes: int) -> Expression:
    """Σ coefficient_k · x^k (Horner)."""
    result = _wide(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + _wide(coefficient, lanes)
    return result


def float_of_integer(value: Expression, lanes: int) -> Expression:
    """int64 vector → float64, rounded once: halves of 32 bits have vector conversions where AVX2 has none for 64."""
    bound = T.Bind(value)
    high = T.cast(T.shift_right(bound, _integers(32, lanes)), f"int32x{lanes}")
    low = T.cast(bound, f"uint32x{lanes}")
    return T.cast(high, f"float64x{lanes}") * _wide(2.0**32, lanes) + T.cast(low, f"float64x{lanes}")


def nearest_integer(value: Expression, lanes: int) -> Expression:
    """float64 vector, each |x| < 2⁵¹, → int64, ties to even."""
    bits = T.reinterpret(f"int64x{lanes}", value + _wide(_TO_INTEGER, lanes))
    return bits - _integers(_TO_INTEGER_BITS, lanes)


def log(value: Expression, lanes: int) -> Expression:
    """Natural logarithm of positive, normal, finite float64."""
    bits = T.Bind(T.reinterpret(f"int64x{lanes}", value))
    # value = m · 2^exponent with m in [√½, √2): near 1 the exponent is 0, and no digits cancel
    shifted = T.Bind(bits - _integers(_SQRT_HALF_BITS, lanes))
    exponent = T.cast(T.shift_right(shifted, _integers(52, lanes)), f"int32x{lanes}")
    mantissa = T.bitwise_and(shifted, _integers(_MANTISSA, lanes)) + _integers(_SQRT_HALF_BITS, lanes)
    m = T.Bind(T.reinterpret(f"float64x{lanes}", mantissa))
    one = _wide(1.0, lanes)
    s = T.Bind((m - one) / (m + one))
    square = T.Bind(s * s)
    return T.cast(exponent, f"float64x{lanes}") * _wide(math.log(2.0), lanes) + s * _series(_LOG, square, lanes)


def uniform(high: Expression, low: Expression, lanes: int) -> Expression:
    """(bits + 1) · 2⁻⁶⁴ in (0, 1] from two vectors of uint32, rounded once to float64."""
    lowest = T.cast(low, f"float64x{lanes}") + _wide(1.0, lanes)
    return (T.cast(high, f"float64x{lanes}") * _wide(2.0**32, lanes) + lowest) * _wide(2.0**-64, lanes)


def direction(high: Expression, low: Expression, lanes: int) -> tuple[Expression, Expression, Expression]:
    """(sign, cosine, sine) of the angle 2π · bits · 2⁻⁶⁴: its cosine is sign · cosine, its sine sign · sine.

    The reduction to [−π/2, π/2) is done on the integer, exactly: half a turn only changes the sign.
    """

    def words(value: int) -> Expression:
        return T.broadcast(T.uint32(value), lanes)

    half_turns = T.Bind(T.shift_right(high + words(1 << 30), words(31)))
    rest = T.reinterpret(f"int32x{lanes}", high - T.shift_left(half_turns, words(31)))
    turns = T.cast(rest, f"float64x{lanes}") * _wide(2.0**32, lanes) + T.cast(low, f"float64x{lanes}")
    x = T.Bind(turns * _wide(2 * math.pi * 2.0**-64, lanes))
    square = T.Bind(x * x)
    sign = _wide(1.0, lanes) - _wide(2.0, lanes) * T.cast(half_turns, f"float64x{lanes}")
    return sign, _series(_COSINE, square, lanes), x * _series(_SINE, square, lanes)
