/* What this machine can do at best, for the share of it that a kernel reaches. Not used by nets.
 *
 *     ceiling_fma     y = x, then `times` times y += factor y: multiply-adds in registers alone
 *     ceiling_copy    y = x
 *     ceiling_triad   y = x0 + factor x1 (McCalpin's STREAM)
 *
 * `streaming` stores go past the caches, which saves reading the lines that are overwritten. */
#ifndef CN_CEILING_H
#define CN_CEILING_H

#include "kernel.h"

#define CEILING_FMA_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                    \
    TENSOR(x) TENSOR(y) NUMBER(factor) SIZE(times, 1)
CN_STRUCT(ceiling_fma_forward, CEILING_FMA_FORWARD)

#define CEILING_COPY_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                   \
    TENSOR(x) TENSOR(y) SIZE(streaming, 1)
CN_STRUCT(ceiling_copy_forward, CEILING_COPY_FORWARD)

#define CEILING_TRIAD_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                  \
    TENSOR(x0) TENSOR(x1) TENSOR(y) NUMBER(factor) SIZE(streaming, 1)
CN_STRUCT(ceiling_triad_forward, CEILING_TRIAD_FORWARD)

#endif
