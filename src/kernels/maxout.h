/* Maxout: y[i,j] = max over the pieces p of x[i, p m + j] (Goodfellow et al. 2013). The first
 * maximum wins, NaN beats everything; winner holds its piece (16 bits). Backward gives dy to the
 * winner and 0 to the others. */
#ifndef CN_MAXOUT_H
#define CN_MAXOUT_H

#include "kernel.h"

#define MAXOUT_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                         \
    TENSOR(x) TENSOR(y) TYPED(winner, CN_U16) SIZE(pieces, 1)
CN_STRUCT(maxout_forward, MAXOUT_FORWARD)

#define MAXOUT_BACKWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                        \
    TENSOR(dy) TYPED(winner, CN_U16) TENSOR(dx) SIZE(pieces, 1)
CN_STRUCT(maxout_backward, MAXOUT_BACKWARD)

#endif
