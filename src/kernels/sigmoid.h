/* Logistic sigmoid: y = 1 / (1 + exp(-x)), NaN kept. exp saturates at 0 and infinity, so that every
 * x has its y in [0, 1], and a small y has its own relative accuracy. Backward from the result: dx
 * = dy y (1 - y). */
#ifndef CN_SIGMOID_H
#define CN_SIGMOID_H

#include "kernel.h"

#define SIGMOID_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y)
CN_STRUCT(sigmoid_forward, SIGMOID_FORWARD)

#define SIGMOID_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(dy) TENSOR(y) TENSOR(dx)
CN_STRUCT(sigmoid_backward, SIGMOID_BACKWARD)

#endif
