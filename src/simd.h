/* Vectors of this variant's dtype and width, over GCC's and Clang's vector extensions.
 *
 * A source is compiled once for each dtype and instruction set, with CN_DOUBLE (0 or 1),
 * CN_VECTOR_BYTES (16, 32 or 64) and CN_VARIANT (its name) from the build. */
#ifndef CN_SIMD_H
#define CN_SIMD_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernel.h"

#if CN_DOUBLE
typedef double real;
typedef int64_t bits;
typedef uint64_t ubits;
#define CN_MANTISSA 52
#define CN_BIAS 1023
#else
typedef float real;
typedef int32_t bits;
typedef uint32_t ubits;
#define CN_MANTISSA 23
#define CN_BIAS 127
#endif

enum { VL = CN_VECTOR_BYTES / (int)sizeof(real) };

#define CN_INLINE static inline __attribute__((always_inline))

/* Loads and stores need no alignment beyond the element's, and may alias anything. */
typedef real vec __attribute__((vector_size(CN_VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef bits ivec __attribute__((vector_size(CN_VECTOR_BYTES), aligned(sizeof(real)), may_alias));

CN_INLINE vec v_set(real a) { return a - (vec){0}; } /* a - 0 keeps the sign of zero */
CN_INLINE vec v_load(const real *p) { return *(const vec *)p; }
CN_INLINE void v_store(real *p, vec a) { *(vec *)p = a; }

/* The first n elements; the others are zero. The tail of a row goes through the same vector
 * expression as its body, so that an element's bits do not depend on where it stands. */
CN_INLINE vec v_load_n(const real *p, ptrdiff_t n) {
    if (n >= VL) return v_load(p);
    vec a = {0};
    memcpy(&a, p, (size_t)n * sizeof(real));
    return a;
}
CN_INLINE void v_store_n(real *p, vec a, ptrdiff_t n) {
    if (n >= VL)
        v_store(p, a);
    else
        memcpy(p, &a, (size_t)n * sizeof(real));
}

/* A store past the caches, to a multiple of the vector's size; v_stream_end makes those before it
 * visible to the other threads. An ordinary store where the compiler has no such thing. */
CN_INLINE void v_stream(real *p, vec a) {
#if CN_VECTOR_BYTES == 64
    _mm512_stream_si512((__m512i *)p, (__m512i)a);
#elif CN_VECTOR_BYTES == 32
    _mm256_stream_si256((__m256i *)p, (__m256i)a);
#elif defined(__x86_64__)
    _mm_stream_si128((__m128i *)p, (__m128i)a);
#else
    v_store(p, a);
#endif
}
CN_INLINE void v_stream_end(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

/* mask ? a : b, lane by lane; a mask is all ones or all zeros, as comparisons give it. */
CN_INLINE vec v_select(ivec mask, vec a, vec b) {
    return (vec)(((ivec)a & mask) | ((ivec)b & ~mask));
}
CN_INLINE vec v_abs(vec a) { return (vec)((ivec)a & (bits)(~(ubits)0 >> 1)); }

/* The one thing vector extensions lack: the compilers see no square root in a loop over lanes. */
CN_INLINE vec v_sqrt(vec a) {
#if CN_VECTOR_BYTES == 64
    return CN_DOUBLE ? (vec)_mm512_sqrt_pd((__m512d)a) : (vec)_mm512_sqrt_ps((__m512)a);
#elif CN_VECTOR_BYTES == 32
    return CN_DOUBLE ? (vec)_mm256_sqrt_pd((__m256d)a) : (vec)_mm256_sqrt_ps((__m256)a);
#elif defined(__x86_64__)
    return CN_DOUBLE ? (vec)_mm_sqrt_pd((__m128d)a) : (vec)_mm_sqrt_ps((__m128)a);
#else
    return CN_DOUBLE ? (vec)vsqrtq_f64((float64x2_t)a) : (vec)vsqrtq_f32((float32x4_t)a);
#endif
}

CN_INLINE int v_any(ivec mask) {
    bits any = 0;
    for (int i = 0; i < VL; i++) any |= mask[i];
    return any != 0;
}

/* NaN and infinity are the values whose exponent is all ones. */
CN_INLINE ivec v_not_finite(vec a) {
    const ubits exponent = (ubits)(2 * CN_BIAS + 1) << CN_MANTISSA;
    return ((ivec)a & (bits)exponent) == (bits)exponent;
}

/* Adds a vector's lanes into doubles. */
CN_INLINE void v_add_double(double *sum, vec a, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < cn_min(n, VL); i++) sum[i] += (double)a[i];
}

#endif
