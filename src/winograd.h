/* Convolution at stride 1 by the minimal filtering of Toom, Cook and Winograd (Lavin and Gray
 * 2016): F(4x4, 3x3) makes 16 outputs of 36 products, which directly take 144; F(2x2, 3x3) makes 4
 * of 16 instead of 36, F(2x2, 5x5) makes 4 of 36 instead of 100.
 *
 *     y = A^T [ sum over c of (G w G^T) (B^T x B) ] A
 *
 * over tiles of m x m outputs and the inputs under them. The points of interpolation of a 6x6 tile
 * are 0, +-3/4, +-3/2 and infinity: exact in binary, symmetric, so that even and odd terms are
 * shared, and with an error near that of the direct sum (tests/test_winograd.py has the bound); the
 * usual 0, +-1, +-2 give twice as much (on the choice of points: Barabasz et al. 2020). A 4x4 tile
 * has 0, +-1 and infinity.
 *
 * The product in the middle is one small matrix product for each point: tiles by channels, channels
 * by outputs. */
#ifndef CN_WINOGRAD_H
#define CN_WINOGRAD_H

#include "gemm.h"

/* One convolution of x (n, h, w, c) to y (n, p, q, k) with r x r filters, by tiles of m x m
 * outputs; (m, r) is (4, 3), (2, 3) or (2, 5). Output row i sees input rows from i - top on. The
 * pass towards the input is one too: dy to dx, with turned filters. */
typedef struct {
    ptrdiff_t n, h, w, c, p, q, k, top, left, m, r;
} winograd;

/* Reals of the transformed filters u; parts of the work of making them. With `turned`, w is
 * (r, r, k, c) and u that of the turned filters. */
ptrdiff_t CN(winograd_filter_size)(const winograd *g);
ptrdiff_t CN(winograd_filter_chunks)(const winograd *g);
void CN(winograd_filter)(const winograd *g, const real *w, int turned, real *u, ptrdiff_t chunk);

/* y, some tiles a chunk. Scratch in reals. */
ptrdiff_t CN(winograd_scratch)(const winograd *g);
ptrdiff_t CN(winograd_chunks)(const winograd *g);
void CN(winograd_run)(const winograd *g, const real *x, const real *u, const real *bias, int relu,
                      real *y, ptrdiff_t chunk, real *scratch);

/* The gradient of w, with scratch as above: first sums over parts of the tiles, in the workspace
 * `du`, then dw of them. */
ptrdiff_t CN(winograd_weights_size)(const winograd *g);
ptrdiff_t CN(winograd_weights_chunks)(const winograd *g);
void CN(winograd_weights)(const winograd *g, const real *x, const real *dy, real *du,
                          ptrdiff_t chunk, real *scratch);
ptrdiff_t CN(winograd_combine_chunks)(const winograd *g);
void CN(winograd_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk);

#endif
