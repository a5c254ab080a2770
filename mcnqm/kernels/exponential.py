"""Exponentials and logarithms that vectorize: powers of two by their bits, the rest by a polynomial.

``x = k log 2 + f`` with ``|f| <= log(2)/2``, ``exp(x) = 2**k p(f)``. The polynomials are minimax in relative error, of
degree 11 (3e-18) in float64 and 6 (2e-9) in float32, so that rounding is all there is: less than one unit in the last
place in float64, and two in float32. Numbers beyond 700 (80 in float32) are taken for those, so that nothing overflows
and no result is subnormal.

``log(x) = k log 2 + log(m)`` with ``x = 2**k m``, m within a factor sqrt(2) of 1; log(m) is that of FreeBSD's
``e_log.c``, off by less than one unit in the last place. It is computed in float64; those of
subnormal numbers are wrong.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import overload

from mcnqm.kernels.jit import double_bits, double_from_bits, float_bits, float_from_bits, fma, number, scalar
from mcnqm.problems.arithmetic import exp, log

__all__ = ["exp32", "exp64", "expm1_positive", "log64"]

_f, _d = np.float32, np.float64

_MOST_64, _MOST_32 = _d(700.0), _f(80.0)
_ROUND_64, _ROUND_32 = _d(1.5 * 2**52), _f(1.5 * 2**23)  # to add this and take it away again rounds to an integer
_PER_LOG_2_64, _PER_LOG_2_32 = _d(1.4426950408889634), _f(1.4426950408889634)
_LOG_2_HIGH_64, _LOG_2_LOW_64 = _d(float.fromhex("0x1.62e42fefa3800p-1")), _d(float.fromhex("0x1.ef35793c76730p-45"))
_LOG_2_HIGH_32, _LOG_2_LOW_32 = _f(0.693145752), _f(1.42860677e-6)
_MANTISSA_64, _MANTISSA_32 = np.int64(52), np.uint32(23)
_EXP_64 = tuple(
    _d(c)
    for c in (
        *(2.4994247177932404e-08, 2.7632368019197577e-07, 2.755762313699603e-06, 2.480148632058812e-05),
        *(0.0001984126943145402, 0.0013888888951410253, 0.008333333333560174, 0.041666666666492075),
        *(0.16666666666666166, 0.5000000000000018),  # and twice 1
    )
)
_EXP_32 = tuple(
    _f(c)
    for c in (
        *(0.0013836794163791407, 0.008374857067840987, 0.04166822868064165, 0.16666419680551917),
        *(0.49999992056107967, 1.0000000364310053),
    )
)
_ONE_32 = _f(1.0)
_SQRT_HALF_BITS = np.int64(0x3FE6A09E667F3BCD)
_ONE_64, _TWO_64, _HALF_64, _ZERO_64, _INF_64 = _d(1.0), _d(2.0), _d(0.5), _d(0.0), _d(np.inf)
_NAN_64 = _d(np.nan)
_LOG_64 = tuple(
    _d(c)
    for c in (
        *(1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01),
        *(2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01),
    )
)


@scalar
def exp64(x):
    """exp(x) of a float64."""
    x = _MOST_64 if x > _MOST_64 else x  # in this order, so that NaN stays NaN
    x = -_MOST_64 if x < -_MOST_64 else x
    shifted = fma(x, _PER_LOG_2_64, _ROUND_64)
    k = shifted - _ROUND_64
    f = fma(k, -_LOG_2_LOW_64, fma(k, -_LOG_2_HIGH_64, x))
    # Pairs first: a chain of eleven is longer than what a core can look ahead. The largest parts last, for rounding.
    f2 = f * f
    f4 = f2 * f2
    low = fma(fma(_EXP_64[6], f, _EXP_64[7]), f2, fma(_EXP_64[8], f, _EXP_64[9]))
    middle = fma(fma(_EXP_64[2], f, _EXP_64[3]), f2, fma(_EXP_64[4], f, _EXP_64[5]))
    high = fma(_EXP_64[0], f, _EXP_64[1])
    p = _ONE_64 + fma(fma(fma(high, f4, middle), f4, low), f2, f)
    # The last bits of `shifted` are k.
    return double_from_bits(double_bits(p) + (double_bits(shifted) << _MANTISSA_64))


@scalar
def _reduced_32(x):
    shifted = fma(x, _PER_LOG_2_32, _ROUND_32)
    k = shifted - _ROUND_32
    f = fma(k, -_LOG_2_LOW_32, fma(k, -_LOG_2_HIGH_32, x))
    p = fma(_EXP_32[0], f, _EXP_32[1])
    p = fma(p, f, _EXP_32[2])
    p = fma(p, f, _EXP_32[3])
    p = fma(p, f, _EXP_32[4])
    p = fma(p, f, _EXP_32[5])
    return p * f, np.uint32(float_bits(shifted) << _MANTISSA_32)


@scalar
def exp32(x):
    """exp(x) of a float32."""
    x = _MOST_32 if x > _MOST_32 else x
    x = -_MOST_32 if x < -_MOST_32 else x
    less, k = _reduced_32(x)
    return float_from_bits(np.uint32(float_bits(_ONE_32 + less) + k))


@scalar
def expm1_positive(x):
    """exp(x) - 1 of a float32 in [0, 80], without cancellation near 0."""
    less, k = _reduced_32(x)
    power = float_from_bits(np.uint32(float_bits(_ONE_32) + k))
    return fma(power, less, power - _ONE_32)


@scalar
def log64(x):
    """The natural logarithm of a float64."""
    k = (double_bits(x) - _SQRT_HALF_BITS) >> _MANTISSA_64
    f = double_from_bits(double_bits(x) - (k << _MANTISSA_64)) - _ONE_64
    # k to float64 by its bits: there is no vector instruction for it everywhere.
    power = double_from_bits(double_bits(_ROUND_64) + k) - _ROUND_64
    s = f / (_TWO_64 + f)
    z = s * s
    r = fma(_LOG_64[0], z, _LOG_64[1])
    r = fma(r, z, _LOG_64[2])
    r = fma(r, z, _LOG_64[3])
    r = fma(r, z, _LOG_64[4])
    r = fma(r, z, _LOG_64[5])
    r = fma(r, z, _LOG_64[6])
    half = _HALF_64 * f * f
    low = fma(power, _LOG_2_LOW_64, s * fma(r, z, half))
    found = fma(power, _LOG_2_HIGH_64, f - (half - low))
    found = found if x < _INF_64 else x
    found = -_INF_64 if x == _ZERO_64 else found
    return _NAN_64 if x < _ZERO_64 else found


@overload(log, jit_options={"forceinline": True})
def _log(x):
    return lambda x: number(log64(np.float64(x)), x)


@overload(exp, jit_options={"forceinline": True})
def _exp(x):
    if x == types.float32:
        return lambda x: exp32(x)  # noqa: PLW0108 - an overload must return a function
    return lambda x: exp64(np.float64(x))
