/* Convolution (cross-correlation) over NHWC images:
 *
 *     y[n,p,q,k] = b[k] + sum over r,s,c of x[n, p*stride_h + r - top, q*stride_w + s - left, c]
 *                                           * w[r,s,c,k]
 *
 * with zeros outside the image; p = (h + top + bottom - r) / stride_h + 1, rounded down, and q
 * likewise. Backward: db = sum of dy over n, p, q; dw and dx are the transposes of the map above.
 */
#ifndef CN_CONV2D_H
#define CN_CONV2D_H

#include "kernel.h"

/* mean and var, if wanted, get those of y's channels, for the batch normalization behind. stride:
 * vertical, horizontal; padding: top, bottom, left, right. winograd: 0 for the direct sum,
 * or the outputs' side of a tile of winograd.h, 2 or 4. */
#define CONV2D_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                         \
    TENSOR(x)                                                                                      \
    TENSOR(w)                                                                                      \
    TENSOR(b)                                                                                      \
    TENSOR(y)                                                                                      \
    TENSOR(mean) TENSOR(var) SIZE(stride, 2) SIZE(padding, 4) FUSED(relu) FUSED(winograd)
CN_STRUCT(conv2d_forward, CONV2D_FORWARD)

/* dx is optional: the first layer's is never computed; dw and db are, for frozen parameters. */
#define CONV2D_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    TENSOR(dy)                                                                                     \
    TENSOR(x)                                                                                      \
    TENSOR(w)                                                                                      \
    TENSOR(dx)                                                                                     \
    TENSOR(dw) TENSOR(db) SIZE(stride, 2) SIZE(padding, 4) FUSED(winograd_dx) FUSED(winograd_dw)
CN_STRUCT(conv2d_backward, CONV2D_BACKWARD)

#endif
