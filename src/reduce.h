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

/* Sums over rows go by tiles of REDUCE_TILE rows, in reals, and beyond a tile in double. Memory
 * must be read nearly in its order: the processor fetches ahead of a few streams, not of one for
 * each row. So rows of up to `widest` vectors, for which there are registers, are added up there,
 * and of longer ones a few at a time. What begins a tile does not ask what it holds.
 *
 * COLUMNS calls `each(nv, some, j)` for nv vectors from column j, of `some` columns; both are
 * constants but for a last, partly filled vector. What is left of many goes in twos first. */
enum {
    WIDE = CN_VECTOR_BYTES == 64 ? 4 : 2, /* where a column needs three to five registers */
    WIDEST = 8,                           /* where it needs one */
};
CN_INLINE ptrdiff_t rows_at_once(ptrdiff_t c, ptrdiff_t widest) {
    return c <= widest * VL ? REDUCE_TILE : 4;
}
#define COLUMNS(c, widest, each)                                                                   \
    do {                                                                                           \
        ptrdiff_t j = 0;                                                                           \
        for (; j + (widest) * VL <= (c); j += (widest) * VL) each(widest, (widest) * VL, j);       \
        if ((widest) > 4)                                                                          \
            for (; j + 2 * VL <= (c); j += 2 * VL) each(2, 2 * VL, j);                             \
        for (; j + VL <= (c); j += VL) each(1, VL, j);                                             \
        if (j < (c)) each(1, (c) - j, j);                                                          \
    } while (0)

/* sum[j] = sum over rows of x[i][j]. */
void CN(sum_rows)(double *sum, const real *x, ptrdiff_t rows, ptrdiff_t columns);
/* The same of one of reduce_parts(rows) parts of the rows, to its place among the parts' sums. */
void CN(sum_part)(double *parts, const real *x, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t part);

/* out[j] = sum over parts of parts[a][j]; the second for j in from .. to. */
void CN(add_double_parts)(real *out, const double *parts, ptrdiff_t count, ptrdiff_t columns);
void CN(add_parts)(real *out, const real *parts, ptrdiff_t count, ptrdiff_t pitch, ptrdiff_t from,
                   ptrdiff_t to);

#endif
