#include "gemm.h"

/* `rows`, `nv` and `in_place` are constants where this is inlined, so that the accumulators are
 * rows * nv registers. Row pointers are kept for every third row only: base, base + ld and
 * base + 2 ld are all addressing modes, and 24 row pointers would not fit the integer registers. */
CN_INLINE void tile(const int rows, const int nv, const int in_place, const gemm_rows *restrict g,
                    const real *x, const real *restrict panel, real *y, ptrdiff_t ldy,
                    const gemm_epilogue *restrict epilogue) {
    vec sum[24][4];
    const ptrdiff_t ld = in_place ? g->ld : 1, step = in_place ? 1 : g->step;

#pragma GCC unroll 24
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++)
            sum[i][j] = epilogue->accumulate ? v_load(y + i * ldy + j * VL) : (vec){0};

    for (ptrdiff_t run = 0; run < g->runs; run++) {
        const real *row[8];
#pragma GCC unroll 8
        for (int i = 0; i < (rows + 2) / 3; i++) row[i] = x + run * g->run_stride + 3 * i * ld;
        for (ptrdiff_t l = 0; l < g->run_length; l++) {
            vec w[4];
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) w[j] = v_load(panel + j * VL);
#pragma GCC unroll 24
            for (int i = 0; i < rows; i++) {
                real a = row[i / 3][i % 3 * ld];
#pragma GCC unroll 4
                for (int j = 0; j < nv; j++) sum[i][j] += a * w[j];
            }
#pragma GCC unroll 8
            for (int i = 0; i < (rows + 2) / 3; i++) row[i] += step;
            panel += nv * VL;
        }
    }

#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
        vec bias = epilogue->bias ? v_load(epilogue->bias + j * VL) : (vec){0};
#pragma GCC unroll 24
        for (int i = 0; i < rows; i++) {
            vec out = sum[i][j] + bias;
            if (epilogue->relu) out = v_select(out <= 0, (vec){0}, out);
            v_store(y + i * ldy + j * VL, out);
        }
    }
}

/* All m rows: tiles of `rows`, then of 4, then single rows. */
#define ROWS(rows, nv, in_place)                                                                   \
    for (; i + rows <= m; i += rows)                                                               \
    tile(rows, nv, in_place, g, g->x + i * g->ld, panel, y + i * ldy, ldy, &epilogue)
#define PANEL(name, rows, nv)                                                                      \
    static __attribute__((noinline)) void name(const gemm_rows *g, ptrdiff_t m, const real *panel, \
                                               real *y, ptrdiff_t ldy, gemm_epilogue epilogue) {   \
        ptrdiff_t i = 0;                                                                           \
        if (g->step == 1) {                                                                        \
            ROWS(rows, nv, 1);                                                                     \
            ROWS(4, nv, 1);                                                                        \
            ROWS(1, nv, 1);                                                                        \
        } else {                                                                                   \
            ROWS(rows, nv, 0);                                                                     \
            ROWS(4, nv, 0);                                                                        \
            ROWS(1, nv, 0);                                                                        \
        }                                                                                          \
    }

#if CN_VECTOR_BYTES == 64 || defined(__aarch64__)
PANEL(panel_4, 6, 4)
PANEL(panel_3, 8, 3)
PANEL(panel_2, 12, 2)
PANEL(panel_1, 24, 1)
#else
PANEL(panel_2, 6, 2)
PANEL(panel_1, 12, 1)
#endif

static void whole_vectors(ptrdiff_t nv, const gemm_rows *g, ptrdiff_t m, const real *panel, real *y,
                          ptrdiff_t ldy, gemm_epilogue epilogue) {
    switch (nv) {
#if CN_VECTOR_BYTES == 64 || defined(__aarch64__)
    case 4:
        panel_4(g, m, panel, y, ldy, epilogue);
        break;
    case 3:
        panel_3(g, m, panel, y, ldy, epilogue);
        break;
#endif
    case 2:
        panel_2(g, m, panel, y, ldy, epilogue);
        break;
    default:
        panel_1(g, m, panel, y, ldy, epilogue);
        break;
    }
}

static void copy_rows(real *to, ptrdiff_t to_ld, const real *from, ptrdiff_t from_ld, ptrdiff_t m,
                      ptrdiff_t width) {
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < width; j++) to[i * to_ld + j] = from[i * from_ld + j];
}

void CN(gemm)(const gemm_rows *g, ptrdiff_t m, const real *panel, ptrdiff_t width, real *y,
              ptrdiff_t ldy, gemm_epilogue epilogue) {
    ptrdiff_t nv = cn_ceil_div(width, VL), filled = nv * VL;
    if (filled == width) {
        whole_vectors(nv, g, m, panel, y, ldy, epilogue);
        return;
    }
    /* The last columns fill a vector only partly: whole vectors into a buffer, then a copy. */
    enum { BUFFER_ROWS = 24 };
    real buffer[BUFFER_ROWS * GEMM_NR], bias[GEMM_NR] = {0};
    if (epilogue.bias) {
        copy_rows(bias, filled, epilogue.bias, width, 1, width);
        epilogue.bias = bias;
    }
    if (epilogue.accumulate) memset(buffer, 0, sizeof buffer);
    for (ptrdiff_t i = 0; i < m; i += BUFFER_ROWS) {
        ptrdiff_t some = cn_min(BUFFER_ROWS, m - i);
        gemm_rows part = *g;
        part.x += i * g->ld;
        if (epilogue.accumulate) copy_rows(buffer, filled, y + i * ldy, ldy, some, width);
        whole_vectors(nv, &part, some, panel, buffer, filled, epilogue);
        copy_rows(y + i * ldy, ldy, buffer, filled, some, width);
    }
}

void CN(gemm_pack)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t column, ptrdiff_t depth,
                   ptrdiff_t width) {
    ptrdiff_t pitch = cn_round_up(width, VL);
    if (column == 1) {
        for (ptrdiff_t l = 0; l < depth; l++)
            for (ptrdiff_t j = 0; j < width; j += VL)
                v_store(packed + l * pitch + j, v_load_n(w + l * row + j, width - j));
        return;
    }
    for (ptrdiff_t j = width; j < pitch; j++)
        for (ptrdiff_t l = 0; l < depth; l++) packed[l * pitch + j] = 0;
    /* Blocks of rows, so that the lines written stay in the nearest cache until they are full. */
    for (ptrdiff_t l0 = 0; l0 < depth; l0 += 32)
        for (ptrdiff_t j = 0; j < width; j++)
            for (ptrdiff_t l = l0; l < cn_min(l0 + 32, depth); l++)
                packed[l * pitch + j] = w[l * row + j * column];
}
