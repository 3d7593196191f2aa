#include "affine.h"

#include "gemm.h"
#include "reduce.h"

/* Rows that share one read of a panel, and rows of dw one chunk makes. */
enum { ROW_BLOCK = 48, WEIGHT_BLOCK = 96 };

static const char *forward_check(const void *args) {
    const affine_forward *a = args;
    ptrdiff_t n = a->x.shape[0], d = cn_example(a->x), m = a->w.shape[1];
    if (!cn_present(a->x) || n < 1 || d < 1) return "x must have at least one element";
    if (!cn_is(a->w, 2, d, m, 1, 1) || m < 1) return "w must have shape (d, m)";
    if (!cn_optional(a->b, 1, m, 1, 1, 1)) return "b must have shape (m,)";
    if (!cn_is(a->y, 2, n, m, 1, 1)) return "y must have shape (n, m)";
    return NULL;
}

static ptrdiff_t forward_workspace(const void *args) {
    const affine_forward *a = args;
    return gemm_packed_size(a->w.shape[0], a->w.shape[1]) * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t forward_pack_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    return gemm_panels(((const affine_forward *)args)->w.shape[1]);
}

static void forward_pack(const void *args, const cn_step *step, ptrdiff_t panel, void *scratch) {
    (void)step, (void)scratch;
    const affine_forward *a = args;
    ptrdiff_t d = a->w.shape[0], m = a->w.shape[1], j = panel * GEMM_NR;
    CN(gemm_pack)((real *)a->head.workspace + d * j, (const real *)a->w.data + j, m, 1, d,
                  gemm_panel_width(m, panel));
}

/* One block of rows times one panel of a packed (depth, columns) matrix. */
static void product(const real *x, ptrdiff_t n, ptrdiff_t depth, const real *packed,
                    ptrdiff_t columns, const real *bias, int relu, real *y, ptrdiff_t chunk) {
    ptrdiff_t blocks = cn_ceil_div(n, ROW_BLOCK), panel = chunk / blocks, i = chunk % blocks;
    ptrdiff_t j = panel * GEMM_NR, row = i * ROW_BLOCK;
    gemm_rows rows = {x + row * depth, depth, 0, 1, depth, 1};
    gemm_epilogue epilogue = {bias ? bias + j : NULL, relu, 0};
    CN(gemm)(&rows, cn_min(ROW_BLOCK, n - row), packed + depth * j,
             gemm_panel_width(columns, panel), y + row * columns + j, columns, epilogue);
}

static ptrdiff_t product_chunks(ptrdiff_t n, ptrdiff_t columns) {
    return cn_ceil_div(n, ROW_BLOCK) * gemm_panels(columns);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return product_chunks(n, ((const affine_forward *)args)->w.shape[1]);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_forward *a = args;
    product(a->x.data, step->n, a->w.shape[0], a->head.workspace, a->w.shape[1], a->b.data,
            (int)a->relu, a->y.data, chunk);
}

/* Backward: stage 0 packs w^T and dy, stage 1 makes dx, dw and parts of db, stage 2 adds parts. */

typedef struct {
    ptrdiff_t d, m;
    ptrdiff_t weight_blocks; /* blocks of dw: rows in steps of WEIGHT_BLOCK times panels */
    ptrdiff_t parts;         /* of the reduction over the batch, at most */
    ptrdiff_t packed_w, packed_dy, dw_parts, db_parts; /* offsets in the workspace, bytes */
    ptrdiff_t bytes;
} backward_layout;

static backward_layout layout_of(const affine_backward *a) {
    backward_layout o;
    o.d = a->w.shape[0];
    o.m = a->w.shape[1];
    o.weight_blocks = cn_ceil_div(o.d, WEIGHT_BLOCK) * gemm_panels(o.m);
    o.parts = cn_clamp(64 / o.weight_blocks, 1, cn_max(1, (4 << 20) / (o.d * o.m * 8)));
    ptrdiff_t real_bytes = (ptrdiff_t)sizeof(real), n = a->x.shape[0];
    o.packed_w = 0;
    o.packed_dy = cn_round_up(gemm_packed_size(o.m, o.d) * real_bytes, 64);
    o.dw_parts = o.packed_dy + cn_round_up(gemm_packed_size(n, o.m) * real_bytes, 64);
    o.db_parts = o.dw_parts + cn_round_up(o.parts * o.d * o.m * real_bytes, 64);
    o.bytes = o.db_parts + reduce_parts(n) * o.m * (ptrdiff_t)sizeof(double);
    return o;
}

/* Parts in use for a batch of n: at least 32 examples each. */
static ptrdiff_t active_parts(backward_layout o, ptrdiff_t n) {
    return cn_clamp(n / 32, 1, o.parts);
}

static ptrdiff_t dw_chunks(const affine_backward *a, backward_layout o, ptrdiff_t n) {
    return cn_present(a->dw) ? active_parts(o, n) * o.weight_blocks : 0;
}

static const char *backward_check(const void *args) {
    const affine_backward *a = args;
    ptrdiff_t n = a->x.shape[0], d = cn_example(a->x), m = a->w.shape[1];
    if (!cn_present(a->x) || n < 1 || d < 1) return "x must have at least one element";
    if (!cn_is(a->w, 2, d, m, 1, 1) || m < 1) return "w must have shape (d, m)";
    if (!cn_is(a->dy, 2, n, m, 1, 1)) return "dy must have shape (n, m)";
    if (cn_present(a->dx) && !cn_same(a->dx, a->x)) return "dx must have the shape of x";
    if (cn_present(a->dw) && !cn_same(a->dw, a->w)) return "dw must have the shape of w";
    if (!cn_optional(a->db, 1, m, 1, 1, 1)) return "db must have shape (m,)";
    return NULL;
}

static ptrdiff_t backward_workspace(const void *args) { return layout_of(args).bytes; }

static ptrdiff_t backward_pack_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    const affine_backward *a = args;
    return (cn_present(a->dw) ? gemm_panels(a->w.shape[1]) : 0) +
           (cn_present(a->dx) ? gemm_panels(a->w.shape[0]) : 0);
}

static void backward_pack(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    char *workspace = a->head.workspace;
    ptrdiff_t dy_panels = cn_present(a->dw) ? gemm_panels(o.m) : 0;
    if (chunk < dy_panels) {
        ptrdiff_t j = chunk * GEMM_NR;
        CN(gemm_pack)((real *)(workspace + o.packed_dy) + step->n * j, (const real *)a->dy.data + j,
                      o.m, 1, step->n, gemm_panel_width(o.m, chunk));
    } else {
        ptrdiff_t panel = chunk - dy_panels, j = panel * GEMM_NR;
        CN(gemm_pack)((real *)(workspace + o.packed_w) + o.m * j, (const real *)a->w.data + j * o.m,
                      1, o.m, o.m, gemm_panel_width(o.d, panel));
    }
}

static ptrdiff_t dx_chunks(const affine_backward *a, backward_layout o, ptrdiff_t n) {
    return cn_present(a->dx) ? product_chunks(n, o.d) : 0;
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    return dx_chunks(a, o, n) + dw_chunks(a, o, n) + (cn_present(a->db) ? reduce_parts(n) : 0);
}

static void weight_block(const affine_backward *a, backward_layout o, ptrdiff_t n,
                         ptrdiff_t chunk) {
    char *workspace = a->head.workspace;
    ptrdiff_t parts = active_parts(o, n), part = chunk / o.weight_blocks;
    ptrdiff_t panels = gemm_panels(o.m), block = chunk % o.weight_blocks;
    ptrdiff_t panel = block % panels, i = block / panels * WEIGHT_BLOCK, j = panel * GEMM_NR;
    ptrdiff_t from = cn_part(n, parts, part), to = cn_part(n, parts, part + 1);
    ptrdiff_t width = gemm_panel_width(o.m, panel);
    real *out = parts > 1 ? (real *)(workspace + o.dw_parts) + part * o.d * o.m : a->dw.data;
    gemm_rows rows = {(const real *)a->x.data + from * o.d + i, 1, 0, 1, to - from, o.d};
    const real *packed = (const real *)(workspace + o.packed_dy) + n * j;
    CN(gemm)(&rows, cn_min(WEIGHT_BLOCK, o.d - i), packed + from * cn_round_up(width, VL), width,
             out + i * o.m + j, o.m, (gemm_epilogue){NULL, 0, 0});
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    ptrdiff_t n = step->n, first = dx_chunks(a, o, n), weights = dw_chunks(a, o, n);
    char *workspace = a->head.workspace;
    if (chunk < first) {
        product(a->dy.data, n, o.m, (const real *)(workspace + o.packed_w), o.d, NULL, 0,
                a->dx.data, chunk);
    } else if (chunk < first + weights) {
        weight_block(a, o, n, chunk - first);
    } else {
        ptrdiff_t part = chunk - first - weights, parts = reduce_parts(n);
        ptrdiff_t from = cn_part(n, parts, part), to = cn_part(n, parts, part + 1);
        CN(sum_rows)((double *)(workspace + o.db_parts) + part * o.m,
                     (const real *)a->dy.data + from * o.m, to - from, o.m);
    }
}

static ptrdiff_t combine_chunks(const void *args, ptrdiff_t n) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    int parts = cn_present(a->dw) && active_parts(o, n) > 1;
    return (parts ? cn_ceil_div(o.d, WEIGHT_BLOCK) : 0) + cn_present(a->db);
}

static void combine(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    char *workspace = a->head.workspace;
    if (cn_present(a->db) && chunk-- == 0) {
        CN(add_double_parts)(a->db.data, (const double *)(workspace + o.db_parts),
                             reduce_parts(step->n), o.m);
        return;
    }
    CN(add_parts)(a->dw.data, (const real *)(workspace + o.dw_parts), active_parts(o, step->n),
                  o.d * o.m, chunk * WEIGHT_BLOCK * o.m,
                  cn_min((chunk + 1) * WEIGHT_BLOCK, o.d) * o.m);
}

#define CN_ARGS_TYPE affine_forward
static const cn_kernel forward = {
    .name = "affine_forward",
    .args_size = sizeof(affine_forward),
    .fields = CN_TABLE(AFFINE_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{forward_pack_chunks, forward_pack}, {forward_chunks, forward_run}},
    .once = 1,
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE affine_backward
static const cn_kernel backward = {
    .name = "affine_backward",
    .args_size = sizeof(affine_backward),
    .fields = CN_TABLE(AFFINE_BACKWARD),
    .check = backward_check,
    .workspace = backward_workspace,
    .stages = {{backward_pack_chunks, backward_pack},
               {backward_chunks, backward_run},
               {combine_chunks, combine}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(affine)[] = {&forward, &backward, NULL};
