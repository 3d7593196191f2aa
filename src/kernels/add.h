/* Addition of two branches: y = x0 + x1; both gradients are dy. */
#ifndef CN_ADD_H
#define CN_ADD_H

#include "kernel.h"

#define ADD_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x0) TENSOR(x1) TENSOR(y) FUSED(relu)
CN_STRUCT(add_forward, ADD_FORWARD)

#define ADD_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(dy) TENSOR(dx0) TENSOR(dx1)
CN_STRUCT(add_backward, ADD_BACKWARD)

#endif
