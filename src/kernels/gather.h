/* The two ends of a plan: gather brings a minibatch in, output takes results out.
 *
 *     x[i] = (data[index[i]] * unit - mean) * scale,  target[i] = labels[index[i]]
 *
 * unit is 1/255 for uint8 data and 1 for floats. mean and scale are optional, of length 1, of the
 * last dimension or of a whole example. NaN and infinity in the data, an index outside the data set
 * and a label outside 0 .. classes-1 are reported here, in the pass that reads them anyway. */
#ifndef CN_GATHER_H
#define CN_GATHER_H

#include "kernel.h"

#define GATHER_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED)                                         \
    TYPED(data, CN_ANY)                                                                            \
    TYPED(labels, CN_I64)                                                                          \
    TENSOR(mean) TENSOR(scale) TENSOR(x) TYPED(target, CN_I64) SIZE(classes, 1)
CN_STRUCT(gather_forward, GATHER_FORWARD)

/* y[row + i] = x[i], where row is the step's first row of the result. */
#define OUTPUT_FORWARD(TENSOR, TYPED, SIZE, NUMBER, FUSED) TENSOR(x) TENSOR(y)
CN_STRUCT(output_forward, OUTPUT_FORWARD)

#endif
