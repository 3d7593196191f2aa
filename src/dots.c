#include "dots.h"

enum { MOST = 4 }; /* columns */

/* `rows` and `columns` are constants where these are inlined: the sums are registers. */
CN_INLINE void add(const int rows, const int columns, const dots *o, ptrdiff_t first, ptrdiff_t l,
                   ptrdiff_t some, vec sum[8][MOST]) {
    vec w[MOST];
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
        w[j] = v_load_n(o->w + j * o->ldw + l, some);
        if (some < VL) w[j] = v_select(v_lanes() < (bits)some, w[j], v_set((real)-0.0));
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        vec a = v_load_n(o->x + (first + i) * o->ld + l, some);
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) sum[i][j] += a * w[j];
    }
}

CN_INLINE void tile(const int rows, const int columns, const dots *o, ptrdiff_t first) {
    vec sum[8][MOST];
    /* -0 leaves every sum as it is, as where there is nothing to add. */
    ivec used = v_lanes() < (bits)cn_min(o->depth, VL);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) sum[i][j] = v_select(used, (vec){0}, v_set((real)-0.0));
    V_EACH(l, 0, o->depth, add(rows, columns, o, first, l, some, sum));
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) {
            real found = v_sum(sum[i][j]) + (o->bias ? o->bias[j] : (real)-0.0);
            o->y[(first + i) * o->row + j * o->column] = o->relu && found <= 0 ? 0 : found;
        }
}

/* As many rows at once as there are registers for. */
#define COLUMNS(name, at_once, columns)                                                            \
    static void name(const dots *o) {                                                              \
        ptrdiff_t i = 0;                                                                           \
        for (; i + (at_once) <= o->rows; i += (at_once)) tile(at_once, columns, o, i);             \
        for (; i < o->rows; i++) tile(1, columns, o, i);                                           \
    }
COLUMNS(one, 8, 1)
COLUMNS(two, 4, 2)
COLUMNS(three, CN_VECTOR_BYTES == 64 ? 4 : 2, 3)
COLUMNS(four, CN_VECTOR_BYTES == 64 ? 4 : 2, 4)

void CN(dots_run)(const dots *o) {
    static void (*const runs[MOST])(const dots *) = {one, two, three, four};
    runs[o->columns - 1](o);
}
