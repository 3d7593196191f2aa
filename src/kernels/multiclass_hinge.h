/* Multiclass hinge loss (Weston and Watkins 1999; the SVM loss of cs231n), margin 1:
 *
 *     loss_i = sum over j != target_i of max(0, x[i,j] - x[i,target_i] + 1)
 *     loss = sum over i of weight_i loss_i / n
 *
 * Backward: dx[i,j] = weight_i / n where the margin is violated, and the target gets minus their
 * sum. At exactly 0 the gradient is 0. */
#ifndef CN_MULTICLASS_HINGE_H
#define CN_MULTICLASS_HINGE_H

#include "kernel.h"

/* weight is optional. */
#define MULTICLASS_HINGE_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                               \
    TENSOR(x) TYPED(target, CN_I64) TENSOR(weight) TYPED(loss, CN_F64)
CN_STRUCT(multiclass_hinge_forward, MULTICLASS_HINGE_FORWARD)

#define MULTICLASS_HINGE_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                              \
    TENSOR(x) TYPED(target, CN_I64) TENSOR(weight) TENSOR(dx)
CN_STRUCT(multiclass_hinge_backward, MULTICLASS_HINGE_BACKWARD)

#endif
