/* The order of a shuffled epoch: the numbers 0 .. count-1, sorted by their draws, equal ones (once
 * in very long) by number. Draw i is 64 bits of Philox block i/2 and a function of seed, epoch t,
 * ordinal and i alone. */
#ifndef CN_SHUFFLE_H
#define CN_SHUFFLE_H

#include "kernel.h"

#define SHUFFLE_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    TYPED(order, CN_I64) SIZE(count, 1) SIZE(ordinal, 1)
CN_STRUCT(shuffle_forward, SHUFFLE_FORWARD)

#endif
