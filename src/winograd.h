/* Convolution with 3x3 filters at stride 1 by F(4x4, 3x3) (Winograd 1980; Lavin and Gray 2016): 36
 * products make 16 outputs, which directly take 144.
 *
 *     y = A^T [ sum over c of (G w G^T) (B^T x B) ] A
 *
 * over tiles of 4x4 outputs and the 6x6 inputs under them. The six points of interpolation are 0,
 * +-3/4, +-3/2 and infinity: exact in binary, symmetric, so that sums of even and odd terms are
 * shared, and with an error near that of the direct sum (tests/test_winograd.py has the bound); the
 * usual 0, +-1, +-2 give twice as much (Barabasz et al. 2020 on the choice of points).
 *
 * The product in the middle is 36 small matrix products: tiles by channels, channels by outputs. */
#ifndef CN_WINOGRAD_H
#define CN_WINOGRAD_H

#include "gemm.h"

enum { WINOGRAD_TILE = 4, WINOGRAD_INPUT = 6, WINOGRAD_POINTS = 36 };

/* One convolution of x (n, h, w, c) to y (n, p, q, k); output row i sees input rows i - top .. i -
 * top + 2. The pass towards the input is one too: dy to dx, with turned filters. */
typedef struct {
    ptrdiff_t n, h, w, c, p, q, k, top, left;
} winograd;

/* Reals of the transformed filters u; parts of the work of making them. With `turned`, w is
 * (3, 3, k, c) and u that of the turned filters. */
ptrdiff_t CN(winograd_filter_size)(const winograd *g);
ptrdiff_t CN(winograd_filter_chunks)(const winograd *g);
void CN(winograd_filter)(const winograd *g, const real *w, int turned, real *u, ptrdiff_t chunk);

/* y, some tiles a chunk. Scratch in reals. */
ptrdiff_t CN(winograd_scratch)(const winograd *g);
ptrdiff_t CN(winograd_chunks)(const winograd *g);
void CN(winograd_run)(const winograd *g, const real *x, const real *u, const real *bias, int relu,
                      real *y, ptrdiff_t chunk, real *scratch);

/* The gradient of w: first sums over parts of the tiles, in the workspace `du`, then dw of them. */
ptrdiff_t CN(winograd_weights_size)(const winograd *g);
ptrdiff_t CN(winograd_weights_scratch)(const winograd *g);
ptrdiff_t CN(winograd_weights_chunks)(const winograd *g);
void CN(winograd_weights)(const winograd *g, const real *x, const real *dy, real *du,
                          ptrdiff_t chunk, real *scratch);
ptrdiff_t CN(winograd_combine_chunks)(const winograd *g);
void CN(winograd_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk);

#endif
