/* Rectified linear unit: y = max(x, 0), NaN kept; the gradient at exactly 0 is 0.
 * Backward reads the result's sign, so the input need not be kept. A fusion may give it a second
 * gradient, dy1, to be added to the first. */
#ifndef CN_RELU_H
#define CN_RELU_H

#include "kernel.h"

#define RELU_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y)
CN_STRUCT(relu_forward, RELU_FORWARD)

#define RELU_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                          \
    TENSOR(dy) TENSOR(dy1) TENSOR(y) TENSOR(dx)
CN_STRUCT(relu_backward, RELU_BACKWARD)

#endif
