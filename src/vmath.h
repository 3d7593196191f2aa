/* Transcendentals as our own polynomials, so that no result depends on the C library.
 *
 * The exponentials: Cody-Waite reduction to |r| <= ln(2)/2, then 1 + r + r^2 q(r), q the polynomial
 * whose largest error there, relative to the function's value, is smallest (Remez): below a
 * quarter of an ulp. Errors in all, where the result is normal: at most 2 ulp of v_exp, and of
 * v_expm1 below 0; 3 of v_expm1 above, and of v_tanh. */
#ifndef CN_VMATH_H
#define CN_VMATH_H

#include "simd.h"

/* x = k ln(2) + r with k the integer nearest to x / ln(2), and 2^k: of k from -bias, where it is 0,
 * to bias + 1, where it is infinity. */
typedef struct {
    vec r, k, power;
} reduced;

CN_INLINE reduced v_reduce(vec x) {
#if CN_DOUBLE
    const real shift = 0x1.8p52 + CN_BIAS;
    const real ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
#else
    const real shift = 0x1.8p23f + CN_BIAS;
    const real ln2_high = 0x1.62e400p-1f, ln2_low = 0x1.7f7d1cp-20f;
#endif
    /* Adding the shift rounds to the nearest integer and leaves it, with the bias, in the low bits,
     * which become the exponent; the shift's high bit is moved out. */
    vec shifted = x * (real)1.4426950408889634 + shift;
    vec k = shifted - shift;
    return (reduced){x - k * ln2_high - k * ln2_low, k, (vec)((ivec)shifted << CN_MANTISSA)};
}

/* c[0] r^(count-1) + ... + c[count-1]. */
CN_INLINE vec v_polynomial(vec r, const real *c, const int count) {
    vec y = v_set(c[0]);
#pragma GCC unroll 16
    for (int i = 1; i < count; i++) y = y * r + c[i];
    return y;
}

/* exp(x) of x up to EXP_MOST, beyond which the result is arbitrary; 0 where it is below the
 * smallest normal number, as denormals are flushed while kernels run (cn_float_enter in team.h).
 * NaN stays. x is kept from where k has no power; at the other end, where that is infinity
 * (from 88.4 or 709.4 on), AVX-512 still gives exp(x): no kernel tells them apart. */
enum { EXP_MOST = CN_DOUBLE ? 710 : 89, EXP_LEAST = CN_DOUBLE ? -709 : -88 };
CN_INLINE vec v_exp(vec x) {
#if CN_DOUBLE
    static const real c[] = {2.500006274043402433e-8,
                             2.763024497527055594e-7,
                             2.755758635278738799e-6,
                             0.0000248014931076621859,
                             0.0001984126950662131121,
                             0.001388888894362251687,
                             0.008333333333494433605,
                             0.04166666666653018373,
                             0.1666666666666641258,
                             0.5000000000000010625,
                             1.0,
                             1.0};
#else
    static const real c[] = {
        0.001381461514f, 0.008368715346f, 0.04166838762f, 0.1666652064f, 0.4999999345f, 1.0f, 1.0f};
#endif
    reduced a = v_reduce(v_at_least(x, EXP_LEAST));
    vec y = v_polynomial(a.r, c, sizeof c / sizeof *c);
#if defined(CN_AVX512) && CN_DOUBLE
    return (vec)_mm512_scalef_pd((__m512d)y, (__m512d)a.k);
#elif defined(CN_AVX512)
    return (vec)_mm512_scalef_ps((__m512)y, (__m512)a.k);
#else
    return y * a.power;
#endif
}

/* exp(x) - 1 = 2^k (exp(r) - 1) + (2^k - 1), of x from -40, where exp is below half an ulp of 1, to
 * 40. Near 0, k = 0 and the first term of exp(r) - 1 is x; of either 0 it is +0. */
CN_INLINE vec v_expm1(vec x) {
#if CN_DOUBLE
    static const real c[] = {2.516136068083464331e-8,  2.762822731017548821e-7,
                             2.755711691103117461e-6,  0.000024801499760679918,
                             0.0001984126998690978655, 0.001388888893617288262,
                             0.008333333333293224942,  0.04166666666656243433,
                             0.1666666666666669635,    0.500000000000000643};
#else
    static const real c[] = {0.0001996216496f, 0.001394320656f, 0.008333220013f,
                             0.04166632702f,   0.166666669f,    0.5f};
#endif
    reduced a = v_reduce(x);
    vec y = a.r * a.r * v_polynomial(a.r, c, sizeof c / sizeof *c) + a.r;
    return a.power * y + (a.power - 1);
}

/* tanh |x| = t / (t + 2), t = exp(2 |x|) - 1: nothing cancels, and from 20 on it is 1. */
CN_INLINE vec v_tanh(vec x) {
    vec a = v_abs(x);
    vec t = v_expm1(2 * v_at_most(a, 20));
    vec y = t / (t + 2);
    return (vec)((ivec)y | ((ivec)x ^ (ivec)a));
}

/* Natural logarithm of a positive, finite, normal double; error at most 2 ulp.
 * x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m-1)/(m+1), |s| <= 0.1716. */
CN_INLINE double cn_log(double x) {
    uint64_t u, one = 0x3ff0000000000000u, shift = 0x4330000000000000u; /* 1 and 2^52 */
    memcpy(&u, &x, sizeof u);
    uint64_t mantissa = (u & 0xfffffffffffffu) | one, exponent = (u >> 52) | shift;
    double m, k;
    memcpy(&m, &mantissa, sizeof m);
    memcpy(&k, &exponent, sizeof k);
    k -= 0x1p52 + 1023; /* no conversion, which not every instruction set has for vectors */
    const int large = m > 1.4142135623730951;
    m = large ? 0.5 * m : m;
    k = large ? k + 1 : k;
    double f = m - 1, s = f / (m + 1), z = s * s, p = 0;
    for (int i = 21; i >= 3; i -= 2) p = p * z + 2.0 / i;
    /* log m = f - s (f - p z), which keeps f's own bits where m is near 1. */
    return k * 0x1.62e42fefa3800p-1 + (f - s * (f - p * z) + k * 0x1.ef35793c76730p-45);
}

#endif
