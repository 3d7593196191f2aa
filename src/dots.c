#include "dots.h"

/* Columns and sums of a tile, at most. */
enum { MOST = 4, MOST_SUMS = 16, MANY_REGISTERS = CN_VECTOR_BYTES == 64 };

/* `rows` and `columns` are constants where these are inlined: the sums are registers. */
CN_INLINE void add(const int rows, const int columns, const dots *o, const real *x, const real *w,
                   ptrdiff_t some, vec *sum) {
    vec right[MOST];
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
        right[j] = v_load_n(w + j * o->ldw, some);
        if (some < VL) right[j] = v_select(v_lanes() < (bits)some, right[j], v_set((real)-0.0));
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        vec a = v_load_n(x + i * o->ld, some);
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) sum[i * columns + j] += a * right[j];
    }
}

/* A tile's results: the sums of its vectors' lanes and the bias, which lies there as they do. */
CN_INLINE void tile(const int rows, const int columns, const dots *o, ptrdiff_t first,
                    const real *bias) {
    enum { ROOM = MOST_SUMS + VL };
    vec sum[ROOM];
    real out[ROOM];
    /* -0 leaves every sum as it is, as where there is nothing to add. */
    ivec used = v_lanes() < (bits)cn_min(o->run_length, VL);
#pragma GCC unroll 16
    for (int i = 0; i < rows * columns; i++) sum[i] = v_select(used, (vec){0}, v_set((real)-0.0));
    for (ptrdiff_t run = 0; run < o->runs; run++) {
        const real *x = o->x + first * o->ld + run * o->run_stride, *w = o->w + run * o->run_length;
        V_EACH(l, 0, o->run_length, add(rows, columns, o, x + l, w + l, some, sum));
    }
    const int vectors = (rows * columns + VL - 1) / VL;
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        vec found = v_sums(sum + v * VL, rows * columns - v * VL) + v_load(bias + v * VL);
        v_store(out + v * VL, o->relu ? v_relu(found) : found);
    }
    real *y = o->y + first * o->row;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) y[i * o->row + j * o->column] = out[i * columns + j];
}

/* As many rows at once as there are registers for. */
#define COLUMNS(name, columns, at_once)                                                            \
    static void name(const dots *o, const real *bias) {                                            \
        ptrdiff_t i = 0;                                                                           \
        for (; i + (at_once) <= o->rows; i += (at_once)) tile(at_once, columns, o, i, bias);       \
        for (; i < o->rows; i++) tile(1, columns, o, i, bias);                                     \
    }
COLUMNS(one, 1, 8)
COLUMNS(two, 2, MANY_REGISTERS ? 8 : 4)
COLUMNS(three, 3, MANY_REGISTERS ? 5 : 2)
COLUMNS(four, 4, MANY_REGISTERS ? 4 : 2)

static void run(const dots *o) {
    static void (*const runs[MOST])(const dots *, const real *) = {one, two, three, four};
    real bias[MOST_SUMS + VL];
    for (ptrdiff_t i = 0; i < MOST_SUMS + VL; i++)
        bias[i] = o->bias ? o->bias[i % o->columns] : (real)-0.0;
    runs[o->columns - 1](o, bias);
}

void CN(dots_run)(const dots *o) {
    dots some = *o;
    ptrdiff_t tiles = cn_ceil_div(o->columns, MOST);
    for (ptrdiff_t i = 0; i < tiles; i++) {
        ptrdiff_t from = cn_part(o->columns, tiles, i);
        some.columns = cn_part(o->columns, tiles, i + 1) - from;
        some.w = o->w + from * o->ldw;
        some.y = o->y + from * o->column;
        some.bias = o->bias ? o->bias + from : NULL;
        run(&some);
    }
}
