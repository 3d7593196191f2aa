/* Concatenation of two branches along the channels: y[..., :c0] = x0, y[..., c0:] = x1. Backward
 * cuts dy in the same place; a gradient that nobody wants is absent. */
#ifndef CN_CONCAT_H
#define CN_CONCAT_H

#include "kernel.h"

#define CONCAT_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x0) TENSOR(x1) TENSOR(y)
CN_STRUCT(concat_forward, CONCAT_FORWARD)

#define CONCAT_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(dy) TENSOR(dx0) TENSOR(dx1)
CN_STRUCT(concat_backward, CONCAT_BACKWARD)

#endif
