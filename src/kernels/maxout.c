#include "maxout.h"

#include "simd.h"

static const char *check(cn_tensor x, cn_tensor y, cn_tensor winner, ptrdiff_t pieces) {
    if (pieces < 1 || pieces > UINT16_MAX) return "pieces must lie in 1 .. 65535";
    if (y.rank != 2 || cn_elements(y) < 1) return "y must have shape (n, m), none of them 0";
    if (x.rank != 2 || x.shape[0] != y.shape[0] || x.shape[1] % pieces ||
        x.shape[1] / pieces != y.shape[1])
        return "x must have shape (n, pieces m)";
    if (!cn_same(winner, y)) return "winner must have the shape of y";
    return NULL;
}

/* Rows of one chunk: near 16384 elements of x. */
static ptrdiff_t row_block(cn_tensor x) { return cn_max(1, 16384 / x.shape[1]); }

static const char *forward_check(const void *args) {
    const maxout_forward *a = args;
    return check(a->x, a->y, a->winner, a->pieces[0]);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return cn_ceil_div(n, row_block(((const maxout_forward *)args)->x));
}

/* The largest of the pieces for up to VL columns of one row, and which it was. */
static void largest(const real *x, ptrdiff_t pieces, ptrdiff_t m, ptrdiff_t some, real *y,
                    uint16_t *winner) {
    vec best = v_load_n(x, some);
    ivec where = {0};
    for (ptrdiff_t p = 1; p < pieces; p++) {
        vec v = v_load_n(x + p * m, some);
        ivec wins = v_wins(v, best);
        best = v_select(wins, v, best);
        where = (where & ~wins) | (wins & (bits)p);
    }
    v_store_n(y, best, some);
    v_store_u16(winner, where, some);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const maxout_forward *a = args;
    ptrdiff_t m = a->y.shape[1], block = row_block(a->x);
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *x = (const real *)a->x.data + i * a->x.shape[1];
        real *y = (real *)a->y.data + i * m;
        uint16_t *winner = (uint16_t *)a->winner.data + i * m;
        V_EACH(j, 0, m, largest(x + j, a->pieces[0], m, some, y + j, winner + j));
    }
}

static const char *backward_check(const void *args) {
    const maxout_backward *a = args;
    return check(a->dx, a->dy, a->winner, a->pieces[0]);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return cn_ceil_div(n, row_block(((const maxout_backward *)args)->dx));
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const maxout_backward *a = args;
    ptrdiff_t m = a->dy.shape[1], block = row_block(a->dx);
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *dy = (const real *)a->dy.data + i * m;
        const uint16_t *winner = (const uint16_t *)a->winner.data + i * m;
        real *dx = (real *)a->dx.data + i * a->dx.shape[1];
        V_EACH(j, 0, m, {
            vec g = v_load_n(dy + j, some);
            ivec where = v_load_u16(winner + j, some);
            for (ptrdiff_t p = 0; p < a->pieces[0]; p++)
                v_store_n(dx + p * m + j, v_select(where == (bits)p, g, (vec){0}), some);
        });
    }
}

#define CN_ARGS_TYPE maxout_forward
static const cn_kernel forward = {
    .name = "maxout_forward",
    .args_size = sizeof(maxout_forward),
    .fields = CN_TABLE(MAXOUT_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE maxout_backward
static const cn_kernel backward = {
    .name = "maxout_backward",
    .args_size = sizeof(maxout_backward),
    .fields = CN_TABLE(MAXOUT_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(maxout)[] = {&forward, &backward, NULL};
