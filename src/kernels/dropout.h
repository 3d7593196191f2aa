/* Dropout (Srivastava et al. 2014): each element is kept with probability keep_prob, otherwise 0.
 * Inverted dropout divides what it keeps by keep_prob; the first form leaves it as it is and is
 * made up for at test time, by `scale`.
 *
 * The mask is a function of seed, iteration t, the layer's ordinal and the element's place in the
 * batch, so backward makes it again instead of storing it. Elements are drawn 8 at a time, 16 bits
 * each, from Philox block i/8; an element is kept if its bits are below round(65536 keep_prob). */
#ifndef CN_DROPOUT_H
#define CN_DROPOUT_H

#include "kernel.h"

#define DROPOUT_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    TENSOR(x) TENSOR(y) NUMBER(keep_prob) SIZE(ordinal, 1) SIZE(inverted, 1)
CN_STRUCT(dropout_forward, DROPOUT_FORWARD)

#define DROPOUT_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                       \
    TENSOR(dy) TENSOR(dx) NUMBER(keep_prob) SIZE(ordinal, 1) SIZE(inverted, 1)
CN_STRUCT(dropout_backward, DROPOUT_BACKWARD)

#endif
