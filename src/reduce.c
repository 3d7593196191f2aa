#include "reduce.h"

/* tile[j] = (where it `begins`) or += the sum over rows of x[i][j]. */
CN_INLINE void add_rows(const int nv, ptrdiff_t some, const real *x, ptrdiff_t rows,
                        ptrdiff_t pitch, int begins, real *tile) {
    vec sum[WIDEST];
#pragma GCC unroll 8
    for (int v = 0; v < nv; v++)
        sum[v] = begins ? (vec){0} : v_load_n(tile + v * VL, some - v * VL);
    for (ptrdiff_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++) sum[v] += v_load_n(x + i * pitch + v * VL, some - v * VL);
#pragma GCC unroll 8
    for (int v = 0; v < nv; v++) v_store_n(tile + v * VL, sum[v], some - v * VL);
}

/* Columns that the tile has room for; of longer rows a stretch at a time. */
enum { STRETCH = 1024 };

static void sum_stretch(double *sum, const real *x, ptrdiff_t rows, ptrdiff_t pitch, ptrdiff_t c) {
    real tile[STRETCH];
    ptrdiff_t at_once = rows_at_once(c, WIDEST);
    for (ptrdiff_t j = 0; j < c; j++) sum[j] = 0;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE) {
        for (ptrdiff_t k = i; k < cn_min(rows, i + REDUCE_TILE); k += at_once) {
#define EACH(nv, some, j)                                                                          \
    add_rows(nv, some, x + k * pitch + j, cn_min(at_once, rows - k), pitch, k == i, tile + j)
            COLUMNS(c, WIDEST, EACH);
#undef EACH
        }
        for (ptrdiff_t j = 0; j < c; j += VL)
            v_add_double(sum + j, v_load_n(tile + j, c - j), c - j);
    }
}

void CN(sum_rows)(double *sum, const real *x, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns; j += STRETCH)
        sum_stretch(sum + j, x + j, rows, columns, cn_min(STRETCH, columns - j));
}

void CN(sum_part)(double *parts, const real *x, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t part) {
    ptrdiff_t count = reduce_parts(rows), from = cn_part(rows, count, part);
    CN(sum_rows)(parts + part * columns, x + from * columns, cn_part(rows, count, part + 1) - from,
                 columns);
}

void CN(add_double_parts)(real *out, const double *parts, ptrdiff_t count, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns; j++) {
        double sum = 0;
        for (ptrdiff_t a = 0; a < count; a++) sum += parts[a * columns + j];
        out[j] = (real)sum;
    }
}

void CN(add_parts)(real *out, const real *parts, ptrdiff_t count, ptrdiff_t pitch, ptrdiff_t from,
                   ptrdiff_t to) {
    enum { BLOCK = 256 };
    double sum[BLOCK];
    for (ptrdiff_t j = from; j < to; j += BLOCK) {
        ptrdiff_t some = cn_min(BLOCK, to - j);
        for (ptrdiff_t i = 0; i < some; i++) sum[i] = 0;
        for (ptrdiff_t a = 0; a < count; a++)
            for (ptrdiff_t i = 0; i < some; i++) sum[i] += (double)parts[a * pitch + j + i];
        for (ptrdiff_t i = 0; i < some; i++) out[j + i] = (real)sum[i];
    }
}
