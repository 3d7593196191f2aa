/* Softmax and its cross-entropy loss (cs231n, linear classification):
 *
 *     prob[i,j] = exp(x[i,j] - max_i) / sum_j exp(x[i,j] - max_i)
 *     loss = sum over i of -weight_i log prob[i, target[i]] / n
 *
 * Backward: dx = weight_i (prob - onehot(target)) / n. weight is optional, 1 without. */
#ifndef CN_SOFTMAX_CROSS_ENTROPY_H
#define CN_SOFTMAX_CROSS_ENTROPY_H

#include "kernel.h"

#define SOFTMAX_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y)
CN_STRUCT(softmax_forward, SOFTMAX_FORWARD)

#define SOFTMAX_CROSS_ENTROPY_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                          \
    TENSOR(x) TYPED(target, CN_I64) TENSOR(weight) TYPED(loss, CN_F64) TENSOR(prob)
CN_STRUCT(softmax_cross_entropy_forward, SOFTMAX_CROSS_ENTROPY_FORWARD)

#define SOFTMAX_CROSS_ENTROPY_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                         \
    TENSOR(prob) TYPED(target, CN_I64) TENSOR(weight) TENSOR(dx)
CN_STRUCT(softmax_cross_entropy_backward, SOFTMAX_CROSS_ENTROPY_BACKWARD)

#endif
