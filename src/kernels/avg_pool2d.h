/* Average pooling over NHWC images: y[n,p,q,c] = mean of the pixels in the image of the window that
 * begins at (p*stride - top, q*stride - left); padding does not count. Backward adds dy / pixels to
 * dx at each of them; overlapping windows add up. */
#ifndef CN_AVG_POOL2D_H
#define CN_AVG_POOL2D_H

#include "kernel.h"

/* size and stride: vertical, horizontal; padding: top, bottom, left, right. */
#define AVG_POOL2D_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                     \
    TENSOR(x) TENSOR(y) SIZE(size, 2) SIZE(stride, 2) SIZE(padding, 4)
CN_STRUCT(avg_pool2d_forward, AVG_POOL2D_FORWARD)

#define AVG_POOL2D_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                    \
    TENSOR(dy) TENSOR(dx) SIZE(size, 2) SIZE(stride, 2) SIZE(padding, 4)
CN_STRUCT(avg_pool2d_backward, AVG_POOL2D_BACKWARD)

#endif
