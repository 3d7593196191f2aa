#include "gemm.h"

/* With 32 registers, the rows of a panel that the first tile to meet it asks for ahead: where it
 * stays in place it may be far away, in another core's cache. A tile of one vector a row has no
 * register left for that. The other tiles ask for what they have: a branch would cost more. */
enum { PANEL_AHEAD = 24 };
/* Asking ahead for longer rows gains nothing: at a line a term a tile fetches what caches hold. */
enum { FAR_TERMS = 1024 };

/* Where the last vector of a row holds little, half a vector is multiplied in half the time. */
#if CN_VECTOR_BYTES == 64
enum { HALVES = 1 };
typedef real half
    __attribute__((vector_size(CN_VECTOR_BYTES / 2), aligned(sizeof(real)), may_alias));
#else
enum { HALVES = 0 };
typedef vec half; /* unused */
#endif
/* Keeps the compiler from making the same value twice: in two widths, or by a load for each row. */
#if defined(CN_AVX512)
#define ONE_REGISTER(a) __asm__("" : "+v"(a))
#else
#define ONE_REGISTER(a)
#endif
CN_INLINE half low_half(vec a) {
#if CN_VECTOR_BYTES != 64
    return a;
#elif CN_DOUBLE
    return __builtin_shufflevector(a, a, 0, 1, 2, 3);
#else
    return __builtin_shufflevector(a, a, 0, 1, 2, 3, 4, 5, 6, 7);
#endif
}
/* The other half is anything: it is not stored. */
CN_INLINE vec whole_of(half a) {
#if defined(CN_AVX512) && CN_DOUBLE
    return (vec)_mm512_castpd256_pd512((__m256d)a);
#elif defined(CN_AVX512)
    return (vec)_mm512_castps256_ps512((__m256)a);
#else
    vec whole = {0};
    memcpy(&whole, &a, sizeof a);
    return whole;
#endif
}

/* Where 16 registers hold few sums, the rest of a step weighs more. So the loop takes two rows of a
 * panel a turn, which leaves a fifth less of it, and does not prefetch, except in the variant for
 * panels or rows that come from far away. That shows where another hardware thread shares the
 * core's decoder. */
enum { FEW_REGISTERS = GEMM_NV == 2, STEPS = FEW_REGISTERS ? 2 : 1 };

/* sums += a w, of one row. With 16 registers the compiler would otherwise move sums around, from
 * turn to turn. */
#if defined(CN_AVX2) && CN_DOUBLE
#define SET_ALL "vbroadcastsd %[a], %[all]\n\t"
#define ADD_TO(sum, w) "vfmadd231pd %[" #w "], %[all], %[" #sum "]\n\t"
#elif defined(CN_AVX2)
#define SET_ALL "vbroadcastss %[a], %[all]\n\t"
#define ADD_TO(sum, w) "vfmadd231ps %[" #w "], %[all], %[" #sum "]\n\t"
#endif
CN_INLINE void add_row(const int nv, vec *sum, const real *a, const vec *w) {
#if defined(CN_AVX2)
    vec all;
    if (nv == 2)
        __asm__(SET_ALL ADD_TO(sum0, w0) ADD_TO(sum1, w1)
                : [sum0] "+&x"(sum[0]), [sum1] "+&x"(sum[1]), [all] "=&x"(all)
                : [a] "m"(*a), [w0] "x"(w[0]), [w1] "x"(w[1]));
    else if (nv == 1)
        __asm__(SET_ALL ADD_TO(sum0, w0)
                : [sum0] "+&x"(sum[0]), [all] "=&x"(all)
                : [a] "m"(*a), [w0] "x"(w[0]));
#else
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
        sum[j] += *a * w[j];
#if defined(CN_SSE2)
        __asm__("" : "+x"(sum[j]));
#endif
    }
#endif
}

/* Adds one step's products: a column of x, by a row of the panel. The index, from what the pointers
 * point to, is 0 where those move; in bytes, so that it is part of an address as it stands. */
CN_INLINE void add_products(const int rows, const int nv, const int halved, vec sum[24][4],
                            half low[24], const real *const *row, const int shared, ptrdiff_t ld,
                            ptrdiff_t at, ptrdiff_t index, const real *restrict panel,
                            const real *asked, ptrdiff_t apart, const int by_columns,
                            ptrdiff_t beside) {
    const int whole = nv - halved;
    vec w[4];
    half w_low;
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
        if (j < whole) {
            w[j] = v_load(panel + j * VL);
            /* One row needs it once; for four and more the compiler keeps it by itself. */
            if (nv > 1 && (rows == 2 || rows == 3)) ONE_REGISTER(w[j]);
        } else {
            w_low = *(const half *)(panel + j * VL);
        }
        /* By columns one line is of x: a step takes so many in passing, and no more. */
        if (nv == 1 || FEW_REGISTERS) continue;
        if (by_columns && j == nv - 1)
            __builtin_prefetch((const char *)(row[0] + at + beside) + index);
        else
            __builtin_prefetch(asked + j * apart);
    }
#pragma GCC unroll 24
    for (int i = 0; i < rows; i++) {
        const real *a = row[i / shared] + i % shared * ld + at;
        a = (const real *)((const char *)a + index);
        /* Half a vector reads the number again where the load costs less than the register: beside
         * one whole vector, in every other row. */
        if (halved && whole && (whole > 1 || i % 2)) {
            vec all = v_set(*a);
            ONE_REGISTER(all);
#pragma GCC unroll 4
            for (int j = 0; j < whole; j++) sum[i][j] += all * w[j];
            low[i] += low_half(all) * w_low;
        } else {
            add_row(whole, sum[i], a, w);
            if (halved) low[i] += *a * w_low;
        }
    }
}

/* What the tiles of a panel have in common. */
typedef struct {
    const gemm_rows *x;
    gemm_panel panel;
    ptrdiff_t last; /* columns of the last vector */
    ptrdiff_t ldy;
    const real *bias; /* whole vectors of it, or NULL */
    int relu, accumulate;
    ptrdiff_t ahead; /* lines of y are asked for so many tiles ahead */
    real *aside; /* where tiles begin and end whose last vector cannot be stored as it is: `fetch`
                    fills it, `put` reads it; or NULL */
    int follows; /* whether to ask for rows that follow, where there is no panel to ask for */
} product;

/* The last vector of a row: with masks, what there is of it. */
#if defined(CN_AVX512)
enum { MASKS = 1 };
#define LOAD_LAST(p, last) v_load_masked(p, last)
#define STORE_LAST(p, a, last) v_store_masked(p, a, last)
#else
enum { MASKS = 0 };
#define LOAD_LAST(p, last) v_load(p)
#define STORE_LAST(p, a, last) v_store(p, a)
#endif

static __attribute__((noinline)) void fetch(const product *o, ptrdiff_t rows, ptrdiff_t nv,
                                            const real *y) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < nv; j++)
            v_store(o->aside + (i * nv + j) * VL,
                    v_load_n(y + i * o->ldy + j * VL, j < nv - 1 ? VL : o->last));
}
static __attribute__((noinline)) void put(const product *o, ptrdiff_t rows, ptrdiff_t nv, real *y) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < nv; j++)
            v_store_n(y + i * o->ldy + j * VL, v_load(o->aside + (i * nv + j) * VL),
                      j < nv - 1 ? VL : o->last);
}

/* `what`, for each vector j of each row of a tile, which begins at `at`. Row pointers are made for
 * every third row, and anew each time: the compiler would otherwise work out many addresses
 * beforehand and spill them. */
#define EACH_VECTOR(rows, nv, y, ldy, what)                                                        \
    do {                                                                                           \
        real *third_ = (y);                                                                        \
        ptrdiff_t pitch_ = (ldy);                                                                  \
        __asm__("" : "+r"(pitch_));                                                                \
        _Pragma("GCC unroll 24") for (int i = 0; i < (rows); i++) {                                \
            if (i && i % 3 == 0) third_ += 3 * pitch_;                                             \
            if (i % 3 == 0) __asm__("" : "+r"(third_));                                            \
            real *at = third_ + i % 3 * pitch_;                                                    \
            _Pragma("GCC unroll 4") for (int j = 0; j < (nv); j++) { what; }                       \
        }                                                                                          \
    } while (0)

/* `what`, for each vector j of each row i of a tile. Rows go inside: a vector of bias serves all of
 * them. */
#define EACH_SUM(rows, nv, what)                                                                   \
    do {                                                                                           \
        _Pragma("GCC unroll 4") for (int j = 0; j < (nv); j++) {                                   \
            _Pragma("GCC unroll 24") for (int i = 0; i < (rows); i++) { what; }                    \
        }                                                                                          \
    } while (0)

/* What a tile asks for: from where, and how far on each step, and how far each of its vectors. */
typedef struct {
    const real *from;
    ptrdiff_t along, apart;
} request;

/* `rows`, `nv`, `halved`, `asks` and `in_place` are constants where this is inlined, so that the
 * accumulators are rows * nv registers. */
CN_INLINE void tile(const int rows, const int nv, const int halved, const int asks,
                    const int in_place, const product *restrict o, const real *x, real *y,
                    request ask, ptrdiff_t beside) {
    vec sum[24][4];
    half low[24];                  /* sums of the last vector, if halved */
    const int whole = nv - halved; /* vectors */
    const gemm_rows *restrict g = o->x;
    const ptrdiff_t ld = in_place ? g->ld : 1, step = in_place ? 1 : g->step;
    /* Rows of x share a pointer: all of them by columns, where they follow each other; in place
     * three, since base, base + ld and base + 2 ld are addressing modes and 24 pointers would not
     * fit the integer registers. Where there is room, pointers stay at the run's end, and one
     * negative index goes along the rows. */
    const int indexed = !in_place || (FEW_REGISTERS && rows <= 6);
    const int shared = !indexed ? 3 : in_place ? 1 : rows, pointers = (rows + shared - 1) / shared;
    const ptrdiff_t pitch = o->panel.pitch;
    const real *restrict panel = o->panel.data, *asked = ask.from;
    real *const aside = MASKS ? NULL : o->aside, *to = aside ? aside : y;
    ptrdiff_t ldy = aside ? nv * VL : o->ldy;

    if (o->accumulate) {
        if (aside) fetch(o, rows, nv, y);
        EACH_VECTOR(rows, nv, to, ldy,
                    sum[i][j] = j < nv - 1 ? v_load(at + j * VL) : LOAD_LAST(at + j * VL, o->last));
    } else {
        /* Lines of y that are asked for now are there when their tile's sums are. */
        EACH_VECTOR(rows, nv, y + o->ahead * rows * o->ldy, o->ldy, {
            sum[i][j] = (vec){0};
            if (j % (64 / CN_VECTOR_BYTES) == 0) __builtin_prefetch(at + j * VL, 1);
        });
    }
    if (halved)
#pragma GCC unroll 24
        for (int i = 0; i < rows; i++) low[i] = low_half(sum[i][whole]);

    ptrdiff_t runs = g->runs; /* that are left of a group */
    for (ptrdiff_t run = g->groups * g->runs; run > 0; run--) {
        const real *end = x + (g->run_length - STEPS + 1) * step;
        const real *row[8] = {indexed ? end : x};
#pragma GCC unroll 8
        for (int i = 1; i < pointers; i++) row[i] = row[i - 1] + shared * ld;
        /* By columns the second step of a turn, which otherwise takes a register for each row. */
        const real *second[1] = {row[0] + step};
        __asm__("" : "+r"(second[0]));
        /* Counts up to the last turn, also where pointers move: its sign, as the addition leaves
         * it, ends the loop. Hidden from the compiler, which would make pointers of it, and work
         * out where those end. */
        ptrdiff_t index = (STEPS - 1 - g->run_length) * step * (ptrdiff_t)sizeof(real);
#define MULTIPLY(steps)                                                                            \
    do {                                                                                           \
        __asm__("" : "+r"(index));                                                                 \
        if (asks && FEW_REGISTERS) __builtin_prefetch(asked, 0, 2);                                \
        if (asks && FEW_REGISTERS && !in_place)                                                    \
            __builtin_prefetch((const char *)(end + beside) + index, 0, 2);                        \
        _Pragma("GCC unroll 2") for (int i = 0; i < (steps); i++)                                  \
            add_products(rows, nv, halved, sum, low, i && !in_place ? second : row, shared, ld,    \
                         in_place ? i : 0, indexed ? index : 0, panel + i * pitch, asked,          \
                         ask.apart, !in_place, beside);                                            \
        _Pragma("GCC unroll 8") for (int i = 0; i < pointers; i++) row[i] +=                       \
            indexed ? 0 : (steps) * step;                                                          \
        panel += (steps) * pitch;                                                                  \
        if (asks) asked += (steps) * ask.along;                                                    \
        index += (steps) * step * (ptrdiff_t)sizeof(real);                                         \
    } while (0)
        while (index < 0) MULTIPLY(STEPS);
        if (STEPS > 1 && index == 0) MULTIPLY(1); /* of two, one is left */
#undef MULTIPLY
        x += g->run_stride;
        if (--runs == 0) {
            x += g->group_stride - g->runs * g->run_stride;
            panel += g->passed * pitch;
            asked += g->passed * ask.along;
            runs = g->runs;
        }
    }

    if (halved)
#pragma GCC unroll 24
        for (int i = 0; i < rows; i++) sum[i][whole] = whole_of(low[i]);
    if (o->bias) EACH_SUM(rows, nv, sum[i][j] += v_load(o->bias + j * VL));
    if (o->relu) EACH_SUM(rows, nv, sum[i][j] = v_relu(sum[i][j]));
    EACH_VECTOR(rows, nv, to, ldy, {
        if (j < nv - 1)
            v_store(at + j * VL, sum[i][j]);
        else
            STORE_LAST(at + j * VL, sum[i][j], o->last);
    });
    if (aside) put(o, rows, nv, y);
}

/* Accumulators of the largest tile, of nv vectors each row. */
enum { ACCUMULATORS = GEMM_NV == 4 ? 24 : 12 };

/* Where the next tile begins, its number, and that of all but the first. */
typedef struct {
    const real *x;
    real *y;
    ptrdiff_t tile, others;
} place;

CN_INLINE void some_tiles(const int rows, const int nv, const int halved, const int asks,
                          const int in_place, const product *o, place *next, ptrdiff_t count) {
    const gemm_panel *panel = &o->panel;
    for (; count > 0; count--, next->tile++) {
        ptrdiff_t beside = o->x->beside;
        request ask = {panel->data, panel->pitch, VL};
        if (asks && FEW_REGISTERS) {
            /* A line a turn, of the next panel or of x two tiles ahead: where a row is one, those
             * of every other row, then the others; so of what is beside. */
            if (o->follows)
                ask.from = next->x + 2 * rows * o->x->ld;
            else
                ask.from = panel->next, ask.along = panel->next_pitch;
            ask.from += next->tile % 2 * ask.along;
            beside += next->tile % 2 * o->x->step;
        } else if (asks && nv == GEMM_NV && o->follows) {
            /* Every fourth line of x, four tiles ahead; the next tile takes the lines between. */
            ask.from = next->x + 4 * rows * o->x->ld;
            ask.from += next->tile % 4 * (64 / (ptrdiff_t)sizeof(real)), ask.apart = 0;
        } else if (asks && !next->tile) {
            ask.from += PANEL_AHEAD * panel->pitch; /* its own */
        } else if (asks && panel->next) {
            /* A column of vectors of the next panel, or where tiles are few, all of it. */
            ask.from = panel->next, ask.along = panel->next_pitch;
            if (next->others >= nv)
                ask.from += (next->tile - 1) * nv / next->others * VL, ask.apart = 0;
        }
        tile(rows, nv, halved, asks, in_place, o, next->x, next->y, ask, beside);
        next->x += rows * o->x->ld;
        next->y += rows * o->ldy;
    }
}

/* All tiles nearly the same, since a narrow one waits for its own sums: some of a height and some
 * of one less. Of the tall tiles not every height is compiled; what they leave is a tile more. */
CN_INLINE void tiles(const int nv, const int halved, const int asks, const int in_place,
                     const product *o, const real *x, ptrdiff_t m, real *y) {
    static const int8_t compiled[] = {0,  1,  2,  3,  4,  5,  6,  6,  8,  8,  10, 10, 12,
                                      12, 12, 12, 16, 16, 16, 16, 20, 20, 20, 20, 24};
    int largest = ACCUMULATORS / nv;
    /* Lines that far apart share one set of the first cache, which may hold no more than eight. */
    if (in_place && largest > 8 && o->x->ld * (ptrdiff_t)sizeof(real) % 4096 == 0) largest = 8;
    place next = {x, y, 0, cn_ceil_div(m, largest) - 1};
    while (m > 0) {
        ptrdiff_t count = cn_ceil_div(m, largest), wanted = cn_ceil_div(m, count);
        ptrdiff_t rows = compiled[wanted];
        if (rows == wanted) count -= count * wanted - m;
        switch (rows) {
#define HEIGHT(height)                                                                             \
    case height:                                                                                   \
        if (height * nv <= ACCUMULATORS)                                                           \
            some_tiles(height, nv, halved, asks, in_place, o, &next, count);                       \
        break;
            HEIGHT(1)
            HEIGHT(2)
            HEIGHT(3)
            HEIGHT(4)
            HEIGHT(5)
            HEIGHT(6)
            HEIGHT(8)
            HEIGHT(10)
            HEIGHT(12)
            HEIGHT(16)
            HEIGHT(20)
            HEIGHT(24)
#undef HEIGHT
        }
        m -= count * rows;
    }
}

/* With 32 registers all tiles ask; with 16 a variant does. */
#define PANEL(name, nv, halved, asks)                                                              \
    static __attribute__((noinline)) void name(const product *o, const real *x, ptrdiff_t m,       \
                                               real *y) {                                          \
        if (o->x->step == 1)                                                                       \
            tiles(nv, halved, asks, 1, o, x, m, y);                                                \
        else                                                                                       \
            tiles(nv, halved, asks, 0, o, x, m, y);                                                \
    }
#if CN_VECTOR_BYTES == 64
#define PANELS(nv) PANEL(panel_##nv, nv, 0, 1) PANEL(panel_##nv##_halved, nv, 1, 1)
#define POINTERS(nv) {panel_##nv, panel_##nv##_halved}
#elif defined(__aarch64__)
#define PANELS(nv) PANEL(panel_##nv, nv, 0, 1)
#define POINTERS(nv) {panel_##nv}
#else
#define PANELS(nv) PANEL(panel_##nv, nv, 0, 0) PANEL(panel_##nv##_asks, nv, 0, 1)
#define POINTERS(nv) {panel_##nv, panel_##nv##_asks}
#endif
PANELS(1)
PANELS(2)
#if CN_VECTOR_BYTES == 64 || defined(__aarch64__)
PANELS(3)
PANELS(4)
#endif

void CN(gemm)(const gemm_rows *g, ptrdiff_t m, gemm_panel panel, ptrdiff_t width, real *y,
              ptrdiff_t ldy, gemm_epilogue epilogue) {
    static void (*const panels[][2])(const product *, const real *, ptrdiff_t, real *) = {
        POINTERS(1),
        POINTERS(2),
#if CN_VECTOR_BYTES == 64 || defined(__aarch64__)
        POINTERS(3),
        POINTERS(4),
#endif
    };
    ptrdiff_t nv = cn_ceil_div(width, VL), last = width - (nv - 1) * VL;
    /* Done before a line comes from memory. What follows a product's rows is mostly next, too. */
    int few_terms = g->groups * g->runs * g->run_length <= 64;
    int asks = panel.next != NULL, by_columns = g->step != 1;
    _Alignas(64) real aside[MASKS ? 1 : ACCUMULATORS * VL], bias[GEMM_NR];
    if (epilogue.bias && last < VL)
        for (ptrdiff_t j = 0; j < nv; j++)
            v_store(bias + j * VL, v_load_n(epilogue.bias + j * VL, width - j * VL));
    int in_order = g->groups * g->runs == 1 && !by_columns && g->ld == g->run_length;
    int follows = g->far && in_order && g->run_length <= FAR_TERMS && !panel.next;
    product o = {.x = g,
                 .panel = panel,
                 .last = last,
                 .ldy = ldy,
                 .bias = epilogue.bias && last < VL ? bias : epilogue.bias,
                 .relu = epilogue.relu,
                 .accumulate = epilogue.accumulate,
                 .ahead = few_terms ? 2 : 0,
                 .aside = MASKS || last == VL ? NULL : aside,
                 .follows = follows};
    ptrdiff_t at_once = g->block ? GEMM_BLOCK : m;
    ptrdiff_t asking =
        FEW_REGISTERS && asks && by_columns && !g->block ? cn_max(g->asking, GEMM_BLOCK) : 0;
    for (ptrdiff_t i = 0, some; i < m; i += some) {
        const real *x = g->x + (g->block ? i / GEMM_BLOCK * g->block : i * g->ld);
        some = cn_min(i < asking ? asking : at_once, m - i);
        int variant = FEW_REGISTERS ? i < asking || (asks && !by_columns) || follows
                                    : HALVES && last <= VL / 2;
        panels[nv - 1][variant](&o, x, some, y + i * ldy);
    }
}

/* to[l][j] = from[j][l] for l < depth and j < width, both at most VL; the rest of to[l] is 0. */
CN_INLINE void transpose(real *to, ptrdiff_t to_ld, const real *from, ptrdiff_t from_ld,
                         ptrdiff_t depth, ptrdiff_t width) {
    vec v[VL];
#pragma GCC unroll 16
    for (int j = 0; j < VL; j++) v[j] = j < width ? v_load_n(from + j * from_ld, depth) : (vec){0};
    v_transpose(v);
#pragma GCC unroll 16
    for (int l = 0; l < VL; l++)
        if (l < depth) v_store(to + l * to_ld, v[l]);
}

/* Columns that are rows in memory: blocks of VL rows and columns are turned around. */
static void pack_transposed(real *packed, const real *w, ptrdiff_t column, ptrdiff_t depth,
                            ptrdiff_t width) {
    enum { BLOCKS_AHEAD = 3 };
    ptrdiff_t pitch = cn_round_up(width, VL);
    for (ptrdiff_t j = 0; j < width; j += VL)
        for (ptrdiff_t l = 0; l < depth; l += VL) {
            const real *from = w + j * column + l;
            real *to = packed + l * pitch + j;
            for (int i = 0; i < VL; i++) __builtin_prefetch(from + i * column + BLOCKS_AHEAD * VL);
            if (l + VL <= depth && j + VL <= width)
                transpose(to, pitch, from, column, VL, VL);
            else
                transpose(to, pitch, from, column, cn_min(VL, depth - l), cn_min(VL, width - j));
        }
}

/* A few columns of long rows: no pattern that the processor would fetch ahead by itself. */
enum { ROWS_AHEAD = 8 };
CN_INLINE void ask_row(const real *row, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j += 64 / (ptrdiff_t)sizeof(real)) __builtin_prefetch(row + j);
    __builtin_prefetch(row + width - 1);
}

void CN(gemm_pack_rows)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t from, ptrdiff_t to,
                        ptrdiff_t depth, ptrdiff_t width) {
    /* `wide` columns are whole panels; the rest is whole vectors `before` a `last` one, which may
     * be partly filled. */
    ptrdiff_t wide = width - width % GEMM_NR, rest = width - wide;
    ptrdiff_t before = cn_ceil_div(rest, VL) * VL - VL, last = rest - before;
    for (ptrdiff_t l = from; l < to; l++) {
        const real *in = w + l * row;
        ask_row(in + ROWS_AHEAD * row, width);
        for (ptrdiff_t first = 0; first < wide; first += GEMM_NR, in += GEMM_NR) {
            real *out = packed + depth * first + l * GEMM_NR;
            for (int j = 0; j < GEMM_NR; j += VL) v_store(out + j, v_load(in + j));
        }
        if (rest == 0) continue;
        real *out = packed + depth * wide + l * (before + VL);
        for (ptrdiff_t j = 0; j < before; j += VL) v_store(out + j, v_load(in + j));
        v_store(out + before, v_load_n(in + before, last));
    }
}

void CN(gemm_pack)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t column, ptrdiff_t depth,
                   ptrdiff_t width) {
    if (column == 1)
        CN(gemm_pack_rows)(packed, w, row, 0, depth, depth, width);
    else
        for (ptrdiff_t j = 0; j < width; j += GEMM_NR)
            pack_transposed(packed + depth * j, w + j * column, column, depth,
                            cn_min(GEMM_NR, width - j));
}

/* One step of the copy; beyond the last nothing is stored. */
CN_INLINE void copy_step(real *to, ptrdiff_t block, const real *x, ptrdiff_t columns,
                         const int last) {
    ptrdiff_t i = 0;
    for (; i + GEMM_BLOCK + VL <= columns; i += GEMM_BLOCK, to += block)
#pragma GCC unroll 6
        for (int j = 0; j < GEMM_BLOCK; j += VL)
            v_store_n(to + j, v_load(x + i + j), last ? GEMM_BLOCK - j : VL);
    for (; i < columns; i += GEMM_BLOCK, to += block)
        for (ptrdiff_t j = 0; j < cn_min(GEMM_BLOCK, columns - i); j += VL)
            v_store_n(to + j, v_load_n(x + i + j, columns - i - j),
                      last ? cn_min(GEMM_BLOCK, columns - i) - j : VL);
}

void CN(gemm_copy)(real *blocks, ptrdiff_t block, const real *x, ptrdiff_t ld, ptrdiff_t steps,
                   ptrdiff_t columns) {
    for (ptrdiff_t l = 0; l < steps; l++, x += ld, blocks += GEMM_BLOCK) {
        ask_row(x + ROWS_AHEAD * ld, columns);
        if (l + 1 < steps)
            copy_step(blocks, block, x, columns, 0);
        else
            copy_step(blocks, block, x, columns, 1);
    }
}

/* So few rows of x do not pay for packing what they meet, fewer of a narrow panel where not even
 * the second cache holds it; nor does it gain anything where all of it fits the first, wherever its
 * rows lie. */
enum { FEW_ROWS = 4 * VL, SMALL = (16 << 10) / (int)sizeof(real) };
static ptrdiff_t few_rows(ptrdiff_t row) {
    int far = row * (ptrdiff_t)sizeof(real) % GEMM_FAR_APART == 0;
    return GEMM_NV == 2 && far ? FEW_ROWS / 4 : FEW_ROWS;
}

/* Whether it is best to read columns where they are; and how many rows must follow. */
static int stay(ptrdiff_t row, ptrdiff_t column, ptrdiff_t depth, ptrdiff_t m) {
    return column == 1 && (gemm_rows_near(row) || m <= few_rows(row) || depth * row <= SMALL);
}
static ptrdiff_t rows_to_fill(ptrdiff_t row, ptrdiff_t width) {
    return cn_ceil_div(cn_round_up(width, VL) - width, row);
}

gemm_columns CN(gemm_columns_of)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t column,
                                 ptrdiff_t depth, ptrdiff_t width, ptrdiff_t m, ptrdiff_t more) {
    if (stay(row, column, depth, m) && more >= rows_to_fill(row, width))
        return (gemm_columns){w, row, depth, width};
    CN(gemm_pack)(packed, w, row, column, depth, width);
    return (gemm_columns){packed, 0, depth, width};
}

/* A pass of its own for the last rows takes as long as packing so many. */
enum { LAST_APART = 128 };

ptrdiff_t CN(gemm_rows_apart)(ptrdiff_t row, ptrdiff_t column, ptrdiff_t depth, ptrdiff_t width,
                              ptrdiff_t m) {
    return depth >= LAST_APART && stay(row, column, depth, m) ? rows_to_fill(row, width) : 0;
}
