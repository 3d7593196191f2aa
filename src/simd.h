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

/* The instructions that vectors of this width have. Where there are none the compiler makes several
 * of each: slow, but the same results (tests/emulate). */
#if CN_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define CN_AVX512
#elif CN_VECTOR_BYTES == 32 && defined(__AVX2__)
#define CN_AVX2
#elif CN_VECTOR_BYTES == 16 && defined(__x86_64__)
#define CN_SSE2
#elif CN_VECTOR_BYTES == 16 && defined(__aarch64__)
#define CN_NEON
#endif

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

/* 0, 1, 2, ... */
CN_INLINE ivec v_lanes(void) {
    ivec lanes;
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) lanes[i] = i;
    return lanes;
}

/* Lanes of a, and from VL on of b, by constant indices. */
CN_INLINE vec v_shuffle(vec a, vec b, ivec index) {
#if defined(__clang__)
    vec c;
    for (int i = 0; i < VL; i++) c[i] = index[i] < VL ? a[index[i]] : b[index[i] - VL];
    return c;
#else
    return __builtin_shuffle(a, b, index);
#endif
}

/* The sum of the lanes, by halves. */
CN_INLINE real v_sum(vec a) {
#pragma GCC unroll 4
    for (int half = VL / 2; half > 0; half /= 2)
        a += v_shuffle(a, a, (v_lanes() + half) & (VL - 1));
    return a[0];
}

/* The first n elements; the others are zero. The tail of a row goes through the same vector
 * expression as its body, so that an element's bits do not depend on where it stands. */
#if defined(CN_AVX512)
#define V_MASK(n) ((__mmask16)((1u << (n)) - 1))
#elif defined(CN_AVX2)
#define V_MASK(n) ((__m256i)((bits)(n) > v_lanes()))
#endif
#if defined(CN_AVX512)
/* Of n from 1 to VL, without asking whether that is all. */
CN_INLINE vec v_load_masked(const real *p, ptrdiff_t n) {
#if CN_DOUBLE
    return (vec)_mm512_maskz_loadu_pd((__mmask8)V_MASK(n), p);
#else
    return (vec)_mm512_maskz_loadu_ps(V_MASK(n), p);
#endif
}
CN_INLINE void v_store_masked(real *p, vec a, ptrdiff_t n) {
#if CN_DOUBLE
    _mm512_mask_storeu_pd(p, (__mmask8)V_MASK(n), (__m512d)a);
#else
    _mm512_mask_storeu_ps(p, V_MASK(n), (__m512)a);
#endif
}
#endif
CN_INLINE vec v_load_n(const real *p, ptrdiff_t n) {
    if (n >= VL) return v_load(p);
#if defined(CN_AVX512)
    return v_load_masked(p, n);
#elif defined(CN_AVX2) && CN_DOUBLE
    return (vec)_mm256_maskload_pd(p, V_MASK(n));
#elif defined(CN_AVX2)
    return (vec)_mm256_maskload_ps(p, V_MASK(n));
#else
    vec a = {0};
    memcpy(&a, p, (size_t)n * sizeof(real));
    return a;
#endif
}
CN_INLINE void v_store_n(real *p, vec a, ptrdiff_t n) {
    if (n >= VL) {
        v_store(p, a);
        return;
    }
#if defined(CN_AVX512)
    v_store_masked(p, a, n);
#else
    /* By halves: the masked store of AVX2 takes some processors a dozen cycles. */
#pragma GCC unroll 4
    for (int half = VL / 2; half > 0; half /= 2)
        if (n & half) {
            memcpy(p, &a, half * sizeof(real));
            a = v_shuffle(a, a, (v_lanes() + half) & (VL - 1));
            p += half;
        }
#endif
}

/* A store past the caches, to a multiple of the vector's size: memory is not read before it is
 * written. The others see it after cn_publish. An ordinary store where there is no such
 * thing. */
CN_INLINE void v_stream(real *p, vec a) {
#if defined(CN_AVX512)
    _mm512_stream_si512((__m512i *)p, (__m512i)a);
#elif defined(CN_AVX2)
    _mm256_stream_si256((__m256i *)p, (__m256i)a);
#elif defined(CN_SSE2)
    _mm_stream_si128((__m128i *)p, (__m128i)a);
#else
    v_store(p, a);
#endif
}
CN_INLINE int v_can_stream(const void *p) { return (uintptr_t)p % CN_VECTOR_BYTES == 0; }

/* Whether a result's vectors pass the caches by: where it is as large as they are, so that little
 * of it would be left in them for who reads it next; and not where it is written over an argument,
 * whose lines are at hand. */
enum { PAST_CACHES = 16 << 20 };
CN_INLINE int large_result(const void *y, ptrdiff_t elements) {
    return elements * (ptrdiff_t)sizeof(real) >= PAST_CACHES && v_can_stream(y);
}
CN_INLINE int past_caches(cn_tensor y, const void *argument) {
    return large_result(y.data, cn_elements(y)) && y.data != argument;
}
/* The same where a vector begins at a channel. */
CN_INLINE int rows_past_caches(cn_tensor y, const void *argument) {
    return cn_channels(y) % VL == 0 && past_caches(y, argument);
}
/* Results that are not written one after the other, as tiles and windows lie, pass the caches only
 * where each vector is a whole line: a line that waits for its other half is sent off before. */
enum { WHOLE_LINES = CN_VECTOR_BYTES >= 64 };
/* A store of the one or the other kind; past the caches only to where v_can_stream. */
CN_INLINE void v_put(real *p, vec a, ptrdiff_t n, int past) {
    if (past && n >= VL)
        v_stream(p, a);
    else
        v_store_n(p, a, n);
}

/* Does something with each vector of elements i = from .. end-1, of which `some` are left: a
 * constant for whole vectors, so that their loop does not ask. The compiler is told that a tail is
 * not whole: with that question left open it fused other multiplications and additions there.
 * `from` and `end` must not mention i, some or end_. */
#define V_EACH(i, from, end, ...)                                                                  \
    do {                                                                                           \
        const ptrdiff_t end_ = (end);                                                              \
        ptrdiff_t i = (from);                                                                      \
        for (; i + VL <= end_; i += VL) {                                                          \
            enum { some = VL };                                                                    \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
        if (i < end_) {                                                                            \
            const ptrdiff_t some = end_ - i;                                                       \
            if (some >= VL) __builtin_unreachable();                                               \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* Reals that lie together, and asking for part i of `parts` of them, so that they come near while
 * something else is computed; unless they are so many that they would drive that out. */
typedef struct {
    const real *from;
    ptrdiff_t size;
} span;
CN_INLINE void ask_for(span s, ptrdiff_t parts, ptrdiff_t i) {
    if (s.size > (512 << 10) / (ptrdiff_t)sizeof(real)) return;
    for (ptrdiff_t at = cn_part(s.size, parts, i); at < cn_part(s.size, parts, i + 1);
         at += 64 / (ptrdiff_t)sizeof(real))
        __builtin_prefetch(s.from + at, 0, 2);
}

/* mask ? a : b, lane by lane; a mask is all ones or all zeros, as comparisons give it. */
CN_INLINE vec v_select(ivec mask, vec a, vec b) {
    return (vec)(((ivec)a & mask) | ((ivec)b & ~mask));
}
/* Greater than the best so far, or the first NaN. */
CN_INLINE ivec v_wins(vec a, vec best) { return ~(a <= best) & (best == best); }
CN_INLINE vec v_relu(vec a) { return v_select(a <= 0, (vec){0}, a); } /* NaN stays */

/* x, but not beyond a limit; NaN stays, which the instructions give if it comes second. */
#if defined(CN_AVX512) || defined(CN_AVX2)
#if defined(CN_AVX512)
#define V_LIMIT(which, limit, x)                                                                   \
    (CN_DOUBLE ? (vec)_mm512_##which##_pd((__m512d)v_set(limit), (__m512d)(x))                     \
               : (vec)_mm512_##which##_ps((__m512)v_set(limit), (__m512)(x)))
#else
#define V_LIMIT(which, limit, x)                                                                   \
    (CN_DOUBLE ? (vec)_mm256_##which##_pd((__m256d)v_set(limit), (__m256d)(x))                     \
               : (vec)_mm256_##which##_ps((__m256)v_set(limit), (__m256)(x)))
#endif
CN_INLINE vec v_at_most(vec x, real limit) { return V_LIMIT(min, limit, x); }
CN_INLINE vec v_at_least(vec x, real limit) { return V_LIMIT(max, limit, x); }
#else
CN_INLINE vec v_at_most(vec x, real limit) { return v_select(x > limit, v_set(limit), x); }
CN_INLINE vec v_at_least(vec x, real limit) { return v_select(x < limit, v_set(limit), x); }
#endif
CN_INLINE vec v_abs(vec a) { return (vec)((ivec)a & (bits)(~(ubits)0 >> 1)); }

/* Lanes that hold numbers of 16 bits, kept in as many; the first n, as above. */
typedef uint16_t vec_u16 __attribute__((vector_size(2 * VL), aligned(2), may_alias));
#if defined(CN_AVX512) && CN_DOUBLE
#define V_U16(what, ...) _mm_##what##u_epi16(__VA_ARGS__)
typedef __m128i vec_16;
#elif defined(CN_AVX512)
#define V_U16(what, ...) _mm256_##what##u_epi16(__VA_ARGS__)
typedef __m256i vec_16;
#endif
CN_INLINE ivec v_load_u16(const uint16_t *p, ptrdiff_t n) {
    vec_u16 a = {0};
#if defined(CN_AVX512)
    if (n < VL)
        a = (vec_u16)V_U16(maskz_load, V_MASK(n), p);
    else
#endif
        memcpy(&a, p, 2 * (size_t)cn_min(n, VL));
#if defined(CN_AVX2) && !CN_DOUBLE
    return (ivec)_mm256_cvtepu16_epi32((__m128i)a); /* GCC widens by halves */
#else
    return __builtin_convertvector(a, ivec);
#endif
}
CN_INLINE void v_store_u16(uint16_t *p, ivec a, ptrdiff_t n) {
    vec_u16 narrow = __builtin_convertvector(a, vec_u16);
#if defined(CN_AVX512)
    if (n < VL)
        V_U16(mask_store, p, V_MASK(n), (vec_16)narrow);
    else
#endif
        memcpy(p, &narrow, 2 * (size_t)cn_min(n, VL));
}

/* The one thing vector extensions lack: the compilers see no square root in a loop over lanes. */
CN_INLINE vec v_sqrt(vec a) {
#if defined(CN_AVX512)
    return CN_DOUBLE ? (vec)_mm512_sqrt_pd((__m512d)a) : (vec)_mm512_sqrt_ps((__m512)a);
#elif defined(CN_AVX2)
    return CN_DOUBLE ? (vec)_mm256_sqrt_pd((__m256d)a) : (vec)_mm256_sqrt_ps((__m256)a);
#elif defined(CN_SSE2)
    return CN_DOUBLE ? (vec)_mm_sqrt_pd((__m128d)a) : (vec)_mm_sqrt_ps((__m128)a);
#elif defined(CN_NEON)
    return CN_DOUBLE ? (vec)vsqrtq_f64((float64x2_t)a) : (vec)vsqrtq_f32((float32x4_t)a);
#else
    for (int i = 0; i < VL; i++)
        a[i] = CN_DOUBLE ? (real)__builtin_sqrt(a[i]) : (real)__builtin_sqrtf((float)a[i]);
    return a;
#endif
}

/* v[i][j] = v[j][i]: blocks of 1, 2, 4, ... lanes change places with those across the diagonal.
 * The lanes that a pair's first and second vector get stand in tables: compilers do not see that
 * they are constants when a loop makes them. */
#define V_FIRST(size, i) ((i) & (size) ? VL + (i) - (size) : (i))
#define V_SECOND(size, i) ((i) & (size) ? VL + (i) : (i) + (size))
#define V_LANES(which, size)                                                                       \
    {which(size, 0),  which(size, 1),  which(size, 2),  which(size, 3),                            \
     which(size, 4),  which(size, 5),  which(size, 6),  which(size, 7),                            \
     which(size, 8),  which(size, 9),  which(size, 10), which(size, 11),                           \
     which(size, 12), which(size, 13), which(size, 14), which(size, 15)}
CN_INLINE ivec v_first(const int step) {
    static const bits lanes[][16] = {V_LANES(V_FIRST, 1), V_LANES(V_FIRST, 2), V_LANES(V_FIRST, 4),
                                     V_LANES(V_FIRST, 8)};
    return *(const ivec *)lanes[step];
}
CN_INLINE ivec v_second(const int step) {
    static const bits lanes[][16] = {V_LANES(V_SECOND, 1), V_LANES(V_SECOND, 2),
                                     V_LANES(V_SECOND, 4), V_LANES(V_SECOND, 8)};
    return *(const ivec *)lanes[step];
}
CN_INLINE void v_transpose(vec v[VL]) {
#pragma GCC unroll 4
    for (int step = 0; 1 << step < VL; step++) {
        const int size = 1 << step;
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            if (!(i & size)) {
                vec a = v[i], b = v[i + size];
                v[i] = v_shuffle(a, b, v_first(step));
                v[i + size] = v_shuffle(a, b, v_second(step));
            }
    }
}

/* Lane i is the sum of the lanes of v[i], of `count` vectors, a constant: halves of the sums of two
 * vectors share one, of four then quarters, and so on. Other lanes are arbitrary. */
CN_INLINE vec v_sums(const vec *v, const int count) {
    vec half[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) half[i] = i < count ? v[i] : (vec){0};
#pragma GCC unroll 4
    for (int step = 0; 1 << step < VL; step++) {
        const int size = 1 << step;
#pragma GCC unroll 16
        for (int i = 0; i < VL; i += 2 * size)
            if (i < count) {
                vec a = half[i], b = half[i + size < count ? i + size : i];
                half[i] = v_shuffle(a, b, v_first(step)) + v_shuffle(a, b, v_second(step));
            }
    }
    return half[0];
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

/* Whether arrays are finite, in four sums, none of which waits for another: 0 times a finite number
 * is 0; times any other it is NaN, and a sum keeps that. */
typedef struct {
    vec zeros[4];
} v_check;
/* To x, unless it is NULL. */
CN_INLINE void v_copy_checked(real *x, const real *from, ptrdiff_t n, v_check *o) {
    ptrdiff_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vec values = v_load(from + i + j * VL);
            o->zeros[j] += 0 * values;
            if (x) v_store(x + i + j * VL, values);
        }
    for (; i < n; i += VL) {
        vec values = v_load_n(from + i, n - i);
        o->zeros[0] += 0 * values;
        if (x) v_store_n(x + i, values, n - i);
    }
}
CN_INLINE void v_check_finite(const real *x, ptrdiff_t n, v_check *o) {
    v_copy_checked(NULL, x, n, o);
}
CN_INLINE int v_all_finite(v_check o) {
    return !v_any(v_not_finite((o.zeros[0] + o.zeros[1]) + (o.zeros[2] + o.zeros[3])));
}

/* A vector's lanes as doubles. */
typedef double wide __attribute__((vector_size(CN_VECTOR_BYTES), aligned(8), may_alias));
enum { WIDES = sizeof(double) / sizeof(real) };
CN_INLINE void v_widen(vec a, wide out[WIDES]) {
#if CN_DOUBLE
    out[0] = a;
#elif defined(CN_AVX512)
    out[0] = (wide)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)a));
    out[1] = (wide)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)a, 1));
#elif defined(CN_AVX2)
    /* GCC converts by halves, in twice as many instructions. */
    out[0] = (wide)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)a));
    out[1] = (wide)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)a, 1));
#else
    typedef float half __attribute__((vector_size(CN_VECTOR_BYTES / 2)));
    half halves[2];
    memcpy(halves, &a, sizeof a);
    out[0] = __builtin_convertvector(halves[0], wide);
    out[1] = __builtin_convertvector(halves[1], wide);
#endif
}

/* Adds the first n lanes into doubles. */
CN_INLINE void v_add_double(double *sum, vec a, ptrdiff_t n) {
    if (n >= VL) {
        wide parts[WIDES];
        v_widen(a, parts);
        for (int i = 0; i < WIDES; i++) *((wide *)sum + i) += parts[i];
        return;
    }
    for (ptrdiff_t i = 0; i < cn_min(n, VL); i++) sum[i] += (double)a[i];
}

#endif
