/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3"
 * (SC 2011). A draw is a function of key and counter alone, so any thread can make any of them. */
#ifndef CN_RNG_H
#define CN_RNG_H

#include "simd.h"

/* Each use of randomness has a stream of its own. Also in cnncore/reference/philox.py. */
enum { CN_STREAM_DROPOUT = 1, CN_STREAM_SHUFFLE = 2 };

/* Words of a counter or a key stand in the low halves of 64-bit lanes; what the high halves hold
 * does not matter, since a product takes the low ones only. */
typedef uint64_t lanes64 __attribute__((vector_size(CN_VECTOR_BYTES), aligned(8), may_alias));
enum { LANES64 = CN_VECTOR_BYTES / 8 };

/* Counters of one call: some vectors of them, so that one's products run under the others'. Three
 * have just room in 16 registers; of the widest there are 32, for four. */
enum {
    PHILOX_VECTORS = CN_VECTOR_BYTES == 64 ? 4 : 3,
    CN_PHILOX_COUNTERS = PHILOX_VECTORS * LANES64
};

CN_INLINE lanes64 low_product(lanes64 a, uint32_t b) {
#if defined(CN_AVX512)
    return (lanes64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(CN_AVX2)
    return (lanes64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(CN_SSE2)
    return (lanes64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
    return (a & 0xffffffffu) * b;
#endif
}

/* The key of each round. */
enum { CN_PHILOX_ROUNDS = 10 };
typedef struct {
    uint64_t word[CN_PHILOX_ROUNDS][2];
} cn_philox_keys;

static inline cn_philox_keys cn_philox_schedule(uint64_t seed) {
    cn_philox_keys keys;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < CN_PHILOX_ROUNDS; round++) {
        keys.word[round][0] = k0;
        keys.word[round][1] = k1;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return keys;
}

/* The even lanes of x and y in turns, and the odd ones. */
CN_INLINE void interleave(lanes64 x, lanes64 y, lanes64 *even, lanes64 *odd) {
#if defined(CN_AVX512)
    *even = (lanes64)_mm512_unpacklo_epi64((__m512i)x, (__m512i)y);
    *odd = (lanes64)_mm512_unpackhi_epi64((__m512i)x, (__m512i)y);
#elif defined(CN_AVX2)
    *even = (lanes64)_mm256_unpacklo_epi64((__m256i)x, (__m256i)y);
    *odd = (lanes64)_mm256_unpackhi_epi64((__m256i)x, (__m256i)y);
#else
    for (int i = 0; i < LANES64; i += 2) {
        (*even)[i] = x[i], (*even)[i + 1] = y[i];
        (*odd)[i] = x[i + 1], (*odd)[i + 1] = y[i + 1];
    }
#endif
}

/* out[i] gets the four words of counter (block + i, t) in the given stream and ordinal:
 * word 0: block low; word 1: block bits 32..47 | t bits 32..47 << 16; word 2: t low;
 * word 3: stream << 24 | ordinal. */
CN_INLINE void cn_philox(uint32_t out[CN_PHILOX_COUNTERS][4], const cn_philox_keys *keys,
                         uint64_t block, uint64_t t, uint32_t stream, uint32_t ordinal) {
    lanes64 c[PHILOX_VECTORS][4];
    /* Even lanes count first, so that the words of one counter come to stand side by side. */
#define PLACE(i) (i) / 2 + (i) % 2 * (LANES64 / 2)
    static const uint64_t places[8] = {PLACE(0), PLACE(1), PLACE(2), PLACE(3),
                                       PLACE(4), PLACE(5), PLACE(6), PLACE(7)};
#undef PLACE
#pragma GCC unroll 4
    for (int v = 0; v < PHILOX_VECTORS; v++) {
        lanes64 b = *(const lanes64 *)places + (block + (uint64_t)(v * LANES64));
        c[v][0] = b;
        c[v][1] = (b >> 32 & 0xffff) | (t >> 32 & 0xffff) << 16;
        c[v][2] = (lanes64){0} + t;
        c[v][3] = (lanes64){0} + (stream << 24 | ordinal);
    }
#pragma GCC unroll 10
    for (int round = 0; round < CN_PHILOX_ROUNDS; round++)
#pragma GCC unroll 4
        for (int v = 0; v < PHILOX_VECTORS; v++) {
            lanes64 a = low_product(c[v][0], 0xD2511F53u), b = low_product(c[v][2], 0xCD9E8D57u);
            c[v][0] = (b >> 32) ^ c[v][1] ^ keys->word[round][0];
            c[v][1] = b;
            c[v][2] = (a >> 32) ^ c[v][3] ^ keys->word[round][1];
            c[v][3] = a;
        }
#pragma GCC unroll 4
    for (int v = 0; v < PHILOX_VECTORS; v++) {
        lanes64 x = (c[v][0] & 0xffffffffu) | c[v][1] << 32;
        lanes64 y = (c[v][2] & 0xffffffffu) | c[v][3] << 32, first, second;
        interleave(x, y, &first, &second);
        memcpy(out[v * LANES64], &first, sizeof first);
        memcpy(out[v * LANES64 + LANES64 / 2], &second, sizeof second);
    }
}

#endif
