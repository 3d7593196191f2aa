/* One step of an update rule over the flat parameter vector, and what rides on that vector: the
 * penalty and the guard that lets no step with a non-finite loss or gradient through.
 *
 * segments has one row (offset, length, l2) for each parameter; they do not overlap, and what lies
 * between them is padding and is left alone. The gradient g is dw + l2 w: the coupled L2 penalty
 * 0.5 l2 sum w^2 is differentiated here, so that it costs no pass of its own (l2 = 0 where it was
 * added before). Conventions are the course's: the velocity holds the learning rate, epsilon stands
 * outside the root, t counts from 1.
 *
 *     sgd:       w -= lr g
 *     momentum:  v = mu v - lr g;  w += v
 *     nesterov:  v = mu v_before - lr g;  w += -mu v_before + (1 + mu) v
 *     adagrad:   cache += g^2;  w -= lr g / (sqrt(cache) + eps)  (Duchi et al. 2011)
 *     rmsprop:   cache = decay cache + (1 - decay) g^2;  w -= lr g / (sqrt(cache) + eps)
 *     adam:      m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
 *                w -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 *                (Kingma and Ba 2015)
 */
#ifndef CN_UPDATE_H
#define CN_UPDATE_H

#include "kernel.h"

/* All that sgd takes, and what the others' arguments begin with. */
#define SGD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(w) TENSOR(dw) TYPED(segments, CN_F64)
CN_STRUCT(sgd_update, SGD_UPDATE)

#define MOMENTUM_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    SGD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(v) NUMBER(mu)
CN_STRUCT(momentum_update, MOMENTUM_UPDATE)

#define NESTEROV_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    MOMENTUM_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)
CN_STRUCT(nesterov_update, NESTEROV_UPDATE)

#define ADAGRAD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                         \
    SGD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(cache) NUMBER(eps)
CN_STRUCT(adagrad_update, ADAGRAD_UPDATE)

#define RMSPROP_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                         \
    ADAGRAD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED) NUMBER(decay)
CN_STRUCT(rmsprop_update, RMSPROP_UPDATE)

#define ADAM_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                            \
    SGD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                                 \
    TENSOR(m) TENSOR(v) NUMBER(beta1) NUMBER(beta2) NUMBER(eps)
CN_STRUCT(adam_update, ADAM_UPDATE)

/* penalty = sum over segments of 0.5 l2 sum w^2; backward adds l2 w to dw. */
#define L2_PENALTY_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                     \
    TENSOR(w) TYPED(segments, CN_F64) TYPED(penalty, CN_F64)
CN_STRUCT(l2_penalty_forward, L2_PENALTY_FORWARD)

#define L2_PENALTY_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                    \
    SGD_UPDATE(TENSOR, TYPED, SIZE, NUMBER, FUSED)
CN_STRUCT(l2_penalty_backward, L2_PENALTY_BACKWARD)

#define GUARD_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TYPED(loss, CN_F64) TENSOR(dw)
CN_STRUCT(guard_forward, GUARD_FORWARD)

#endif
