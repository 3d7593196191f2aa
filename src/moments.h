/* Mean and variance of columns, in parts that are merged in order (Chan, Golub, LeVeque 1979).
 *
 * A part of some rows holds each column's mean, each column's sum of squared deviations from it,
 * and the number of rows. Squares are of differences from one of the rows, so a constant column has
 * variance exactly 0. */
#ifndef CN_MOMENTS_H
#define CN_MOMENTS_H

#include "simd.h"

/* Doubles of a part, for c columns. */
CN_INLINE ptrdiff_t moments_size(ptrdiff_t c) { return 2 * c + 1; }

/* Column j of a part, from sums over its rows of differences from `shift` and of their squares. The
 * number of rows comes with the first column: others may be made by other threads. */
CN_INLINE void put_moments(double *part, ptrdiff_t c, ptrdiff_t j, double shift, double sum,
                           double squares, double rows) {
    part[j] = shift + sum / rows;
    part[c + j] = squares - sum / rows * sum;
    if (j == 0) part[2 * c] = rows;
}

/* The part of x (rows, c). */
void CN(row_moments)(double *part, const real *x, ptrdiff_t rows, ptrdiff_t c);

/* Chunks of merging the parts; each takes up to MOMENTS_COLUMNS columns. */
enum { MOMENTS_COLUMNS = 64 };
CN_INLINE ptrdiff_t moments_chunks(ptrdiff_t c) { return cn_ceil_div(c, MOMENTS_COLUMNS); }
/* mean (c,) and biased var (c,) of `count` parts that follow each other. */
void CN(merge_moments)(real *mean, real *var, const double *parts, ptrdiff_t count, ptrdiff_t c,
                       ptrdiff_t chunk);

#endif
