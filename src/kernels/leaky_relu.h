/* Leaky rectified linear unit: y = x < 0 ? slope x : x, NaN kept (Maas et al. 2013).
 * Backward reads the result's sign: dx = y > 0 ? dy : slope dy, so the gradient at 0 is slope dy.
 */
#ifndef CN_LEAKY_RELU_H
#define CN_LEAKY_RELU_H

#include "kernel.h"

#define LEAKY_RELU_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y) NUMBER(slope)
CN_STRUCT(leaky_relu_forward, LEAKY_RELU_FORWARD)

#define LEAKY_RELU_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                    \
    TENSOR(dy) TENSOR(y) TENSOR(dx) NUMBER(slope)
CN_STRUCT(leaky_relu_backward, LEAKY_RELU_BACKWARD)

#endif
