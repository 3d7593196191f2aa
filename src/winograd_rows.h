/* Winograd's algorithm along the rows of an image only, F(1x4, 7x7): 4 outputs side by side of 10
 * products for each of the 7 filter rows, which directly take 28.
 *
 *     y = A^T [ sum over filter row and channel of (G w) (B^T x) ]
 *
 * Filters of 7x7 stand in first layers, of few channels: over both dimensions there would be
 * nothing left to sum over, here the sum has 7 terms for each channel. The arguments are those of
 * winograd.h, which comes here for (m, r) = (4, 7). */
#ifndef CN_WINOGRAD_ROWS_H
#define CN_WINOGRAD_ROWS_H

#include "winograd.h"

ptrdiff_t CN(winograd_rows_filter_size)(const winograd *g);
ptrdiff_t CN(winograd_rows_filter_chunks)(const winograd *g);
void CN(winograd_rows_filter)(const winograd *g, const real *w, int turned, real *u,
                              ptrdiff_t chunk);

ptrdiff_t CN(winograd_rows_scratch)(const winograd *g);
ptrdiff_t CN(winograd_rows_chunks)(const winograd *g);
void CN(winograd_rows_run)(const winograd *g, const real *x, const real *u,
                           winograd_epilogue epilogue, real *y, ptrdiff_t chunk, real *scratch);

ptrdiff_t CN(winograd_rows_weights_size)(const winograd *g);
ptrdiff_t CN(winograd_rows_weights_chunks)(const winograd *g);
void CN(winograd_rows_weights)(const winograd *g, const real *x, const real *dy, real *du,
                               ptrdiff_t chunk, real *scratch);
ptrdiff_t CN(winograd_rows_combine_chunks)(const winograd *g);
void CN(winograd_rows_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk);

#endif
