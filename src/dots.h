/* Matrix product with few columns, as dot products: where a vector of columns would be mostly
 * empty.
 *
 *     y[i*row + j*column] = sum over run, l of x[i*ld + run*run_stride + l]
 *                                              * w[j*ldw + run*run_length + l], + bias[j]
 *
 * Both sides lie along the sum; an affine layer is one run, a convolution one for each filter row.
 * A sum is kept in VL parts, added up at the end, in an order that depends on the length and number
 * of runs alone. */
#ifndef CN_DOTS_H
#define CN_DOTS_H

#include "simd.h"

/* So few columns fill half a vector at most. */
enum { DOTS_MOST = VL / 2 < 8 ? VL / 2 : 8 };

/* Shorter sums do not pay for adding the parts up, as measured with each instruction set. */
CN_INLINE int dots_pay(ptrdiff_t columns, ptrdiff_t depth) {
    ptrdiff_t least = CN_VECTOR_BYTES == 64 && columns <= 4 ? 1 : 16;
    return columns <= DOTS_MOST && depth >= least * columns;
}

typedef struct {
    const real *x;
    ptrdiff_t ld, rows, runs, run_stride, run_length;
    const real *w;
    ptrdiff_t ldw, columns;
    const real *bias; /* or NULL */
    int relu;
    real *y;
    ptrdiff_t row, column;
} dots;

/* Columns of w, (depth, columns), each for itself. */
CN_INLINE void dots_columns(real *to, const real *w, ptrdiff_t depth, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns; j++)
        for (ptrdiff_t l = 0; l < depth; l++) to[j * depth + l] = w[l * columns + j];
}

void CN(dots_run)(const dots *o);

#endif
