/* Affine layer: y = x w + b, x read as (n, d), w (d, m), b (m).
 * Backward: dx = dy w^T, dw = x^T dy, db = sum of dy over the batch. */
#ifndef CN_AFFINE_H
#define CN_AFFINE_H

#include "kernel.h"

#define AFFINE_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                         \
    TENSOR(x) TENSOR(w) TENSOR(b) TENSOR(y) FUSED(relu)
CN_STRUCT(affine_forward, AFFINE_FORWARD)

/* dx is optional: the first layer's is never computed; dw and db are, for frozen parameters. */
#define AFFINE_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    TENSOR(dy) TENSOR(x) TENSOR(w) TENSOR(dx) TENSOR(dw) TENSOR(db)
CN_STRUCT(affine_backward, AFFINE_BACKWARD)

#endif
