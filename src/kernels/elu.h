/* Exponential linear unit: y = x > 0 ? x : alpha (exp(x) - 1), NaN kept (Clevert et al. 2016).
 * Backward from the result: dx = y > 0 ? dy : dy (y + alpha), so the gradient at 0 is alpha dy. */
#ifndef CN_ELU_H
#define CN_ELU_H

#include "kernel.h"

#define ELU_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y) NUMBER(alpha)
CN_STRUCT(elu_forward, ELU_FORWARD)

#define ELU_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                           \
    TENSOR(dy) TENSOR(y) TENSOR(dx) NUMBER(alpha)
CN_STRUCT(elu_backward, ELU_BACKWARD)

#endif
