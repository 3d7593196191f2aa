/* Convolution at stride 1 by the minimal filtering of Toom, Cook and Winograd (Lavin and Gray
 * 2016): F(4x4, 3x3) makes 16 outputs of 36 products, which directly take 144; F(2x2, 3x3) makes 4
 * of 16 instead of 36, F(4x4, 5x5) 16 of 64 instead of 400, F(2x2, 5x5) 4 of 36 instead of 100.
 *
 *     y = A^T [ sum over c of (G w G^T) (B^T x B) ] A
 *
 * over tiles of m x m outputs (7x7: 1 x m) and the inputs under them. The product in the middle is
 * one small matrix product for each point of interpolation (winograd_transform.h): tiles by
 * channels, channels by outputs. 7x7 filters are transformed along the rows only (winograd_rows.h).
 * The error has a bound: tests/test_winograd.py. */
#ifndef CN_WINOGRAD_H
#define CN_WINOGRAD_H

#include "gemm.h"
#include "moments.h"

/* One convolution of x (n, h, w, c) to y (n, p, q, k) with r x r filters, by tiles of m x m
 * outputs; m is 4 or 2 and r 3 or 5, or m is 4 and r 7. Output row i sees input rows from i - top
 * on. The pass towards the input is one too: dy to dx, with turned filters. */
typedef struct {
    ptrdiff_t n, h, w, c, p, q, k, top, left, m, r;
} winograd;

/* Reals of the transformed filters u that threads share; parts of the work of making them. With
 * `turned`, w is (r, r, k, c) and u that of the turned filters. */
ptrdiff_t CN(winograd_filter_size)(const winograd *g);
ptrdiff_t CN(winograd_filter_chunks)(const winograd *g);
void CN(winograd_filter)(const winograd *g, const real *w, int turned, real *u, ptrdiff_t chunk);

/* The filters of a run: u, or where winograd_own_size says how many reals, what a thread keeps for
 * all its chunks of a stage; it begins with a zero before the first, and u, made of w, follows. */
ptrdiff_t CN(winograd_own_size)(const winograd *g);
typedef struct {
    const real *u, *w;
    int turned;
    real *own;
} winograd_filters;

/* What becomes of a result as it is written. */
typedef struct {
    const real *bias; /* of all k columns, or NULL */
    int relu;
    double *moments; /* NULL, or gets those of y's channels: winograd_parts() parts */
} winograd_epilogue;

/* y, some tiles a chunk. Scratch in reals; parts of y that moments are made of. */
ptrdiff_t CN(winograd_scratch)(const winograd *g);
ptrdiff_t CN(winograd_chunks)(const winograd *g);
ptrdiff_t CN(winograd_parts)(const winograd *g);
void CN(winograd_run)(const winograd *g, const real *x, winograd_filters filters,
                      winograd_epilogue epilogue, real *y, ptrdiff_t chunk, real *scratch);

/* The gradient of w, with scratch as above: first sums over parts of the tiles, in the workspace
 * `du`, then dw of them. */
ptrdiff_t CN(winograd_weights_size)(const winograd *g);
ptrdiff_t CN(winograd_weights_chunks)(const winograd *g);
void CN(winograd_weights)(const winograd *g, const real *x, const real *dy, real *du,
                          ptrdiff_t chunk, real *scratch);
ptrdiff_t CN(winograd_combine_chunks)(const winograd *g);
void CN(winograd_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk);

#endif
