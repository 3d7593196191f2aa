/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3"
 * (SC 2011). A draw is a function of key and counter alone, so any thread can make any of them. */
#ifndef CN_RNG_H
#define CN_RNG_H

#include <stdint.h>

/* Each use of randomness has a stream of its own. Also in cnncore/reference/philox.py. */
enum { CN_STREAM_DROPOUT = 1, CN_STREAM_SHUFFLE = 2 };

/* Sixteen counters at a time, one a lane: plain loops that the compiler turns into vectors. */
enum { CN_PHILOX_LANES = 16 };

/* Lane i gets the four words of counter (block + i, t) in the given stream and ordinal:
 * word 0: block low; word 1: block bits 32..47 | t bits 32..47 << 16; word 2: t low;
 * word 3: stream << 24 | ordinal. */
static inline void cn_philox(uint32_t out[4][CN_PHILOX_LANES], uint64_t seed, uint64_t block,
                             uint64_t t, uint32_t stream, uint32_t ordinal) {
    uint32_t c0[CN_PHILOX_LANES], c1[CN_PHILOX_LANES], c2[CN_PHILOX_LANES], c3[CN_PHILOX_LANES];
    for (int i = 0; i < CN_PHILOX_LANES; i++) {
        uint64_t b = block + (uint64_t)i;
        c0[i] = (uint32_t)b;
        c1[i] = (uint32_t)(b >> 32 & 0xffff) | (uint32_t)(t >> 32 & 0xffff) << 16;
        c2[i] = (uint32_t)t;
        c3[i] = stream << 24 | ordinal;
    }
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < CN_PHILOX_LANES; i++) {
            uint64_t a = (uint64_t)0xD2511F53u * c0[i], b = (uint64_t)0xCD9E8D57u * c2[i];
            uint32_t old1 = c1[i], old3 = c3[i];
            c0[i] = (uint32_t)(b >> 32) ^ old1 ^ k0;
            c1[i] = (uint32_t)b;
            c2[i] = (uint32_t)(a >> 32) ^ old3 ^ k1;
            c3[i] = (uint32_t)a;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < CN_PHILOX_LANES; i++) {
        out[0][i] = c0[i];
        out[1][i] = c1[i];
        out[2][i] = c2[i];
        out[3][i] = c3[i];
    }
}

#endif
