/* Sums over rows, in double beyond one register tile, and sums of partial results.
 *
 * A long sum is cut into parts by its length alone, each part is one chunk, and the parts are added
 * in order: the same bits for any number of threads. */
#ifndef CN_REDUCE_H
#define CN_REDUCE_H

#include "simd.h"

enum { REDUCE_TILE = 16, REDUCE_MAX_PARTS = 64 };

CN_INLINE ptrdiff_t reduce_parts(ptrdiff_t rows) {
    return cn_clamp(rows / 128, 1, REDUCE_MAX_PARTS);
}

/* sum[j] = sum over rows of x[i][j]. */
void CN(sum_rows)(double *sum, const real *x, ptrdiff_t rows, ptrdiff_t columns);

/* out[j] = sum over parts of parts[a][j], for j in from .. to. */
void CN(add_double_parts)(real *out, const double *parts, ptrdiff_t count, ptrdiff_t columns);
void CN(add_parts)(real *out, const real *parts, ptrdiff_t count, ptrdiff_t pitch, ptrdiff_t from,
                   ptrdiff_t to);

#endif
