/* Hyperbolic tangent, NaN kept.
 * Backward from the result: dx = dy (1 - y^2), as (1 - y) (1 + y), which keeps its relative
 * accuracy where |y| is near 1. */
#ifndef CN_TANH_H
#define CN_TANH_H

#include "kernel.h"

#define TANH_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y)
CN_STRUCT(tanh_forward, TANH_FORWARD)

#define TANH_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(dy) TENSOR(y) TENSOR(dx)
CN_STRUCT(tanh_backward, TANH_BACKWARD)

#endif
