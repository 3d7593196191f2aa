/* One row times a matrix that lies far away: a matrix-vector product.
 *
 *     y[j] = sum over l of x[l] * w[l*pitch + j], + bias[j]
 *
 * Rows of w are read along, some at once: so memory is read in its order, where panels (gemm.h)
 * take 256 bytes of each row. Each sum is the chain that gemm.h has, to the same bits. */
#ifndef CN_GEMV_H
#define CN_GEMV_H

#include "simd.h"

typedef struct {
    const real *x, *w;
    ptrdiff_t pitch, rows, columns; /* of w */
    const real *bias;               /* or NULL */
    int relu;
    real *y;
} gemv;

void CN(gemv_run)(const gemv *o);

#endif
