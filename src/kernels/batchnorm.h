/* Batch normalization (Ioffe and Szegedy 2015) over the rows of (n, d) or of (n h w, c):
 *
 *     mean, var = mean and biased variance of each column of x
 *     y = gamma (x - mean) / sqrt(var + eps) + beta
 *
 * Backward, with xhat = (x - mean) / sqrt(var + eps) and m rows:
 *     dbeta = sum dy, dgamma = sum dy xhat,
 *     dx = gamma / sqrt(var + eps) (dy - dbeta / m - xhat dgamma / m)
 *
 * At test time batchnorm_eval uses the running averages, which running_average updates after each
 * step: running = momentum running + (1 - momentum) value. */
#ifndef CN_BATCHNORM_H
#define CN_BATCHNORM_H

#include "kernel.h"

/* With moments_given, mean and var are arguments: the convolution that made x made them too. */
#define BATCHNORM_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                      \
    TENSOR(x)                                                                                      \
    TENSOR(gamma)                                                                                  \
    TENSOR(beta)                                                                                   \
    TENSOR(y) TENSOR(mean) TENSOR(var) NUMBER(eps) FUSED(relu) FUSED(moments_given)
CN_STRUCT(batchnorm_forward, BATCHNORM_FORWARD)

/* With relu, dy is the gradient behind a ReLU, which lets it pass where y > 0; y is made again from
 * x, for which beta is read. */
#define BATCHNORM_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                     \
    TENSOR(dy)                                                                                     \
    TENSOR(x)                                                                                      \
    TENSOR(gamma)                                                                                  \
    TENSOR(beta)                                                                                   \
    TENSOR(mean) TENSOR(var) TENSOR(dx) TENSOR(dgamma) TENSOR(dbeta) NUMBER(eps) FUSED(relu)
CN_STRUCT(batchnorm_backward, BATCHNORM_BACKWARD)

#define BATCHNORM_EVAL_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                 \
    TENSOR(x)                                                                                      \
    TENSOR(gamma)                                                                                  \
    TENSOR(beta) TENSOR(running_mean) TENSOR(running_var) TENSOR(y) NUMBER(eps) FUSED(relu)
CN_STRUCT(batchnorm_eval_forward, BATCHNORM_EVAL_FORWARD)

/* A frozen layer in training: dx = dy gamma / sqrt(running_var + eps). */
#define BATCHNORM_EVAL_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                \
    TENSOR(dy) TENSOR(gamma) TENSOR(running_var) TENSOR(dx) NUMBER(eps)
CN_STRUCT(batchnorm_eval_backward, BATCHNORM_EVAL_BACKWARD)

#define RUNNING_AVERAGE_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                 \
    TENSOR(running) TENSOR(value) NUMBER(momentum)
CN_STRUCT(running_average_update, RUNNING_AVERAGE_UPDATE)

#endif
