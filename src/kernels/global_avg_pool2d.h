/* Global average pooling: y[n,c] = mean over h, w of x[n,h,w,c]; dx = dy / (h w). */
#ifndef CN_GLOBAL_AVG_POOL2D_H
#define CN_GLOBAL_AVG_POOL2D_H

#include "kernel.h"

#define GLOBAL_AVG_POOL2D_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y)
CN_STRUCT(global_avg_pool2d_forward, GLOBAL_AVG_POOL2D_FORWARD)

#define GLOBAL_AVG_POOL2D_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(dy) TENSOR(dx)
CN_STRUCT(global_avg_pool2d_backward, GLOBAL_AVG_POOL2D_BACKWARD)

#endif
