/* The gradient of a convolution's filters by direct sums over pixels (kernels/conv2d.h has the
 * formula; winograd.h has the other way). g->n is the largest batch, n the one at hand. */
#ifndef CN_CONV_WEIGHTS_H
#define CN_CONV_WEIGHTS_H

#include "conv.h"

/* Reals of the workspace; and bytes of a thread's scratch. */
ptrdiff_t CN(conv_weights_size)(const geometry *g);
ptrdiff_t CN(conv_weights_scratch)(const geometry *g);

/* First dy is copied to the workspace, if all chunks are to read it from there. */
ptrdiff_t CN(conv_weights_pack_chunks)(const geometry *g);
void CN(conv_weights_pack)(const geometry *g, ptrdiff_t n, const real *dy, real *workspace,
                           ptrdiff_t chunk);

/* Then chunks make dw, or parts of it in the workspace, */
ptrdiff_t CN(conv_weights_chunks)(const geometry *g, ptrdiff_t n);
void CN(conv_weights)(const geometry *g, ptrdiff_t n, const real *x, const real *dy, real *dw,
                      real *workspace, ptrdiff_t chunk, void *scratch);

/* which are then added up. */
ptrdiff_t CN(conv_weights_combine_chunks)(const geometry *g, ptrdiff_t n);
void CN(conv_weights_combine)(const geometry *g, ptrdiff_t n, const real *workspace, real *dw,
                              ptrdiff_t chunk);

#endif
