/* Multiplication by a constant: y = factor x, dx = factor dy, with factor in (0, 1]. */
#ifndef CN_SCALE_H
#define CN_SCALE_H

#include "kernel.h"

#define SCALE_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y) NUMBER(factor)
CN_STRUCT(scale_forward, SCALE_FORWARD)

#define SCALE_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(dy) TENSOR(dx) NUMBER(factor)
CN_STRUCT(scale_backward, SCALE_BACKWARD)

#endif
