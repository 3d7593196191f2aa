/* The gradient of a convolution's input by direct sums (kernels/conv2d.h has the formula;
 * winograd.h has the other way). */
#ifndef CN_CONV_INPUT_H
#define CN_CONV_INPUT_H

#include "conv.h"

/* Reals of the packed filters; parts of the work of packing them. */
ptrdiff_t CN(conv_input_filters_size)(const geometry *g);
ptrdiff_t CN(conv_input_pack_chunks)(const geometry *g);
void CN(conv_input_pack)(const geometry *g, const real *w, real *filters, ptrdiff_t chunk);

/* dx, some rows of an image a chunk, and of few images some channels of them; bytes of a thread's
 * scratch. */
ptrdiff_t CN(conv_input_scratch)(const geometry *g);
ptrdiff_t CN(conv_input_chunks)(const geometry *g, ptrdiff_t n);
void CN(conv_input)(const geometry *g, ptrdiff_t n, const real *dy, const real *filters, real *dx,
                    ptrdiff_t chunk, void *scratch);

#endif
