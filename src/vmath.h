/* Transcendentals as our own polynomials, so that no result depends on the C library.
 *
 * exp: Cody-Waite reduction to |r| <= ln(2)/2, then a Taylor polynomial (its truncation there is
 * below a tenth of an ulp); error at most 2 ulp where the result is normal. */
#ifndef CN_VMATH_H
#define CN_VMATH_H

#include "simd.h"

CN_INLINE vec v_exp(vec x) {
#if CN_DOUBLE
    const real high = 709.782712893384, low = -708.3964185322641;
    const real shift = 0x1.8p52, ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
    static const real c[] = {1.0 / 6227020800,
                             1.0 / 479001600,
                             1.0 / 39916800,
                             1.0 / 3628800,
                             1.0 / 362880,
                             1.0 / 40320,
                             1.0 / 5040,
                             1.0 / 720,
                             1.0 / 120,
                             1.0 / 24,
                             1.0 / 6,
                             0.5,
                             1.0,
                             1.0};
#else
    const real high = 88.72283f, low = -87.33654f;
    const real shift = 0x1.8p23f, ln2_high = 0x1.62e400p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static const real c[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                             1.0f / 6,    0.5f,       1.0f,       1.0f};
#endif
    ivec over = x > high, under = x < low, nan = x != x;
    vec bounded = v_select(over | under | nan, v_set(0), x);
    /* Adding the shift rounds to the nearest integer and leaves it in the low bits. */
    vec shifted = bounded * (real)1.4426950408889634 + shift;
    vec k = shifted - shift;
    vec r = bounded - k * ln2_high - k * ln2_low;
    vec y = v_set(c[0]);
    for (size_t i = 1; i < sizeof c / sizeof *c; i++) y = y * r + c[i];
    /* 2^k in two factors: k reaches 1024 (128), whose own power of two is not representable. */
    ivec power = (ivec)shifted - (ivec)v_set(shift);
    ivec half = power >> 1;
    y = y * (vec)((half + CN_BIAS) << CN_MANTISSA) * (vec)((power - half + CN_BIAS) << CN_MANTISSA);
    y = v_select(over, v_set((real)__builtin_inf()), y);
    y = v_select(under, v_set(0), y);
    return v_select(nan, x, y);
}

/* Natural logarithm of a positive, finite, normal double; error at most 2 ulp.
 * x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m-1)/(m+1), |s| <= 0.1716. */
CN_INLINE double cn_log(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    int64_t k = (int64_t)(u >> 52) - 1023;
    u = (u & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &u, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k += 1;
    }
    double f = m - 1, s = f / (m + 1), z = s * s, p = 0;
    for (int i = 21; i >= 3; i -= 2) p = p * z + 2.0 / i;
    /* log m = f - s (f - p z), which keeps f's own bits where m is near 1. */
    return k * 0x1.62e42fefa3800p-1 + (f - s * (f - p * z) + k * 0x1.ef35793c76730p-45);
}

#endif
