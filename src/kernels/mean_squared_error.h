/* Mean squared error over real targets (n, m):
 *
 *     loss = sum over i of weight_i mean over j of (x[i,j] - target[i,j])^2 / n
 *
 * Backward: dx = weight_i 2 (x - target) / (n m). */
#ifndef CN_MEAN_SQUARED_ERROR_H
#define CN_MEAN_SQUARED_ERROR_H

#include "kernel.h"

/* weight is optional. */
#define MEAN_SQUARED_ERROR_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                             \
    TENSOR(x) TENSOR(target) TENSOR(weight) TYPED(loss, CN_F64)
CN_STRUCT(mean_squared_error_forward, MEAN_SQUARED_ERROR_FORWARD)

#define MEAN_SQUARED_ERROR_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                            \
    TENSOR(x) TENSOR(target) TENSOR(weight) TENSOR(dx)
CN_STRUCT(mean_squared_error_backward, MEAN_SQUARED_ERROR_BACKWARD)

#endif
