/* Max pooling over NHWC images: y[n,p,q,c] = max of the window that begins at
 * (p*stride - top, q*stride - left), padding never wins. The first maximum in row order wins, NaN
 * beats everything. winner holds its place in the window, row * s + column (16 bits). Backward adds
 * dy to dx at the winner; overlapping windows add up. */
#ifndef CN_MAX_POOL2D_H
#define CN_MAX_POOL2D_H

#include "kernel.h"

/* size and stride: vertical, horizontal; padding: top, bottom, left, right. */
#define MAX_POOL2D_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                     \
    TENSOR(x) TENSOR(y) TYPED(winner, CN_U16) SIZE(size, 2) SIZE(stride, 2) SIZE(padding, 4)
CN_STRUCT(max_pool2d_forward, MAX_POOL2D_FORWARD)

/* With relu the image came from a ReLU, whose gradient this makes too; y is read for that. */
#define MAX_POOL2D_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                    \
    TENSOR(dy)                                                                                     \
    TENSOR(y)                                                                                      \
    TYPED(winner, CN_U16) TENSOR(dx) SIZE(size, 2) SIZE(stride, 2) SIZE(padding, 4) FUSED(relu)
CN_STRUCT(max_pool2d_backward, MAX_POOL2D_BACKWARD)

#endif
