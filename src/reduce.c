#include "reduce.h"

void CN(sum_rows)(double *sum, const real *x, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns; j++) sum[j] = 0;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE) {
        ptrdiff_t some = cn_min(REDUCE_TILE, rows - i);
        for (ptrdiff_t j = 0; j < columns; j += VL) {
            vec tile = {0};
            for (ptrdiff_t k = i; k < i + some; k++)
                tile += v_load_n(x + k * columns + j, columns - j);
            v_add_double(sum + j, tile, columns - j);
        }
    }
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
