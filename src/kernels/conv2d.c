#include "conv2d.h"

#include "conv.h"
#include "conv_input.h"
#include "conv_weights.h"
#include "gemm.h"
#include "moments.h"
#include "reduce.h"
#include "winograd.h"

/* Bounds that keep every product of sizes that the kernels form inside 64 bits. */
static const ptrdiff_t MAX_SIZE = (ptrdiff_t)1 << 31;
static const double MAX_PRODUCT = (double)((ptrdiff_t)1 << 48);

static const char *check_geometry(cn_tensor x, cn_tensor w, cn_tensor y, const ptrdiff_t *stride,
                                  const ptrdiff_t *padding) {
    if (x.rank != 4 || cn_elements(x) < 1) return "x must have shape (n, h, w, c), none of them 0";
    if (w.rank != 4 || cn_elements(w) < 1) return "w must have shape (r, s, c, k), none of them 0";
    if (w.shape[2] != x.shape[3]) return "w must have as many channels as x";
    for (int axis = 0; axis < 2; axis++) {
        ptrdiff_t size = x.shape[1 + axis], before = padding[2 * axis],
                  after = padding[2 * axis + 1];
        if (size > MAX_SIZE) return "x is too large";
        if (stride[axis] < 1 || stride[axis] > MAX_SIZE) return "stride must be at least 1";
        if (before < 0 || after < 0 || before > MAX_SIZE || after > MAX_SIZE)
            return "padding must not be negative";
        ptrdiff_t space = size + before + after - w.shape[axis];
        if (space < 0) return "the filter is larger than the padded image";
        if (y.rank != 4 || y.shape[1 + axis] != space / stride[axis] + 1)
            return "y must have the shape that x, w, stride and padding give";
    }
    double padded = (double)(x.shape[1] + padding[0] + padding[1]) *
                    (double)(x.shape[2] + padding[2] + padding[3]);
    if (padded * (double)cn_max(x.shape[3], w.shape[3]) > MAX_PRODUCT)
        return "the padded image is too large";
    /* Of a row's products beside each other; a column may lie down to be one. */
    for (int axis = 0; axis < 2; axis++)
        if ((double)y.shape[1 + axis] * (double)w.shape[axis] * (double)w.shape[2] > MAX_PRODUCT)
            return "w is too large";
    if ((double)cn_elements(w) > MAX_PRODUCT) return "w is too large";
    if (y.shape[0] != x.shape[0] || y.shape[3] != w.shape[3])
        return "y must have shape (n, p, q, k)";
    return NULL;
}

/* Output rows and columns of one chunk: their input patch stays near PATCH_BYTES. */
static tiling forward_tiling(const geometry *g) {
    ptrdiff_t reals = PATCH_BYTES / (ptrdiff_t)sizeof(real);
    patch one = input_patch(g, 0, 1);
    return (tiling){g->p, g->q, cn_clamp(reals / (one.columns * g->c * g->stride_h), 1, g->p),
                    piece_columns(g->p, g->q, reals / (g->r * g->c * g->stride_w))};
}

static geometry forward_geometry(const conv2d_forward *a) {
    return geometry_of(a->x, a->w, a->y, a->stride, a->padding);
}

/* Whether winograd.h can do it by tiles of m: 3x3, 5x5 or 7x7 filters at stride 1, and no padding
 * beyond what they reach. */
static const char *check_winograd(ptrdiff_t m, cn_tensor w, const ptrdiff_t *stride,
                                  const ptrdiff_t *padding) {
    ptrdiff_t r = w.shape[0];
    int fits = ((m == 2 || m == 4) && (r == 3 || r == 5)) || (m == 4 && r == 7);
    fits &= w.shape[1] == r && stride[0] == 1 && stride[1] == 1;
    for (int i = 0; i < 4; i++) fits &= padding[i] < r;
    if (m == 0 || fits) return NULL;
    return "winograd needs 3x3 or 5x5 filters, or 7x7 by tiles of 4, stride 1, padding below the "
           "filter";
}

/* The convolution as winograd.h has it, of n examples; and the one that makes dx of dy. */
static winograd winograd_of(const geometry *g, ptrdiff_t n, ptrdiff_t m) {
    return (winograd){n, g->h, g->w, g->c, g->p, g->q, g->k, g->top, g->left, m, g->r};
}
static winograd winograd_dx(const geometry *g, ptrdiff_t n, ptrdiff_t m) {
    ptrdiff_t top = g->r - 1 - g->top, left = g->s - 1 - g->left;
    return (winograd){n, g->p, g->q, g->k, g->h, g->w, g->c, top, left, m, g->r};
}

static const char *forward_check(const void *args) {
    const conv2d_forward *a = args;
    const char *wrong = check_geometry(a->x, a->w, a->y, a->stride, a->padding);
    if (!wrong) wrong = check_winograd(a->winograd, a->w, a->stride, a->padding);
    if (wrong) return wrong;
    if (!cn_optional(a->b, 1, a->w.shape[3], 1, 1, 1)) return "b must have shape (k,)";
    if (!cn_optional(a->mean, 1, a->w.shape[3], 1, 1, 1)) return "mean must have shape (k,)";
    if (cn_present(a->mean) ? !cn_same(a->var, a->mean) : cn_present(a->var))
        return "var must have the shape of mean";
    return NULL;
}

/* Whether filters are panels as they stand: those of one panel are, and wide panels that meet few
 * pixels, for which packing them is much of the work. */
enum { FEW_PIXELS = 128 };
static int filters_stay(const geometry *g) {
    int few = GEMM_TOGETHER == 1 && g->n * g->p * g->q <= FEW_PIXELS;
    return g->k % VL == 0 && (g->k <= GEMM_NR || few);
}

/* The filters, packed or transformed, begin the workspace; the moments of parts of y follow. */
static ptrdiff_t filters_room(const conv2d_forward *a) {
    geometry g = forward_geometry(a);
    winograd o = winograd_of(&g, g.n, a->winograd);
    ptrdiff_t direct = filters_stay(&g) ? 0 : gemm_packed_size(g.r * g.s * g.c, g.k);
    ptrdiff_t reals = o.m ? CN(winograd_filter_size)(&o) : direct;
    return cn_round_up(reals * (ptrdiff_t)sizeof(real), 64);
}

static double *moments_of(const conv2d_forward *a) {
    return cn_present(a->mean) ? (double *)((char *)a->head.workspace + filters_room(a)) : NULL;
}

/* Parts whose moments are made: of a direct sum each chunk. */
static ptrdiff_t moments_parts(const conv2d_forward *a, const geometry *g, ptrdiff_t n) {
    winograd o = winograd_of(g, n, a->winograd);
    return o.m ? CN(winograd_parts)(&o) : n * pieces_of_image(forward_tiling(g));
}

static ptrdiff_t forward_workspace(const void *args) {
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    ptrdiff_t parts = cn_present(a->mean) ? moments_parts(a, &g, g.n) : 0;
    return filters_room(a) + parts * moments_size(g.k) * (ptrdiff_t)sizeof(double);
}

static ptrdiff_t forward_scratch(const void *args) {
    geometry g = forward_geometry(args);
    winograd o = winograd_of(&g, g.n, ((const conv2d_forward *)args)->winograd);
    if (o.m)
        return (CN(winograd_own_size)(&o) + CN(winograd_scratch)(&o)) * (ptrdiff_t)sizeof(real);
    tiling t = forward_tiling(&g);
    geometry first = piece_of_y(g, 0, t.columns);
    return patch_bytes(input_patch(&first, 0, t.rows), g.c);
}

static ptrdiff_t forward_pack_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    geometry g = forward_geometry(args);
    winograd o = winograd_of(&g, g.n, ((const conv2d_forward *)args)->winograd);
    if (o.m) return CN(winograd_filter_chunks)(&o);
    return filters_stay(&g) ? 0 : gemm_panels(g.k);
}

static void forward_pack(const void *args, const cn_step *step, ptrdiff_t panel, void *scratch) {
    (void)step, (void)scratch;
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    if (a->winograd) {
        winograd o = winograd_of(&g, g.n, a->winograd);
        CN(winograd_filter)(&o, a->w.data, 0, a->head.workspace, panel);
        return;
    }
    ptrdiff_t depth = g.r * g.s * g.c, j = panel * GEMM_NR;
    if (few_filters(&g)) {
        dots_columns(a->head.workspace, a->w.data, depth, g.k);
        return;
    }
    CN(gemm_pack)((real *)a->head.workspace + depth * j, (const real *)a->w.data + j, g.k, 1, depth,
                  gemm_panel_width(g.k, panel));
}

/* Groups of panels, each a chunk; but moments are made of rows that are at hand as a whole. */
static ptrdiff_t forward_groups(const conv2d_forward *a, const geometry *g, ptrdiff_t n) {
    ptrdiff_t pieces = n * pieces_of_image(forward_tiling(g));
    return cn_present(a->mean) ? 1 : cn_pieces(pieces, gemm_panels(g->k));
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    winograd o = winograd_of(&g, n, a->winograd);
    if (o.m) return CN(winograd_chunks)(&o);
    return n * pieces_of_image(forward_tiling(&g)) * forward_groups(a, &g, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    if (a->winograd) {
        winograd o = winograd_of(&g, step->n, a->winograd);
        winograd_epilogue epilogue = {a->b.data, (int)a->relu, moments_of(a)};
        winograd_filters filters = {a->head.workspace, a->w.data, 0, scratch};
        CN(winograd_run)(&o, a->x.data, filters, epilogue, a->y.data, chunk,
                         (real *)scratch + CN(winograd_own_size)(&o));
        return;
    }
    ptrdiff_t groups = forward_groups(a, &g, step->n), group = chunk % groups;
    int stay = filters_stay(&g);
    chunk /= groups;
    piece at = piece_at(forward_tiling(&g), chunk);
    ptrdiff_t rows = at.rows;
    real *y = (real *)a->y.data + ((at.image * g.p + at.row) * g.q + at.column) * g.k;
    g = piece_of_y(g, at.column, at.columns);
    patch part = input_patch(&g, at.row, rows);
    view x = read_patch(scratch, (const real *)a->x.data + at.image * g.h * g.w * g.c, g.h, g.w,
                        g.c, part);
    ptrdiff_t depth = g.r * g.s * g.c;
    int few = few_filters(&g);
    const real *packed = a->head.workspace, *w = a->w.data;
    ptrdiff_t across = g.stride_w * g.c, down = g.stride_h * x.pitch;
    if (skips(&g) && x.data != scratch) {
        copy_met(scratch, x, &g, rows);
        x.data = scratch, across = g.c, down = g.q * g.c;
    }
    /* Rows that follow each other without a gap, as those of 1x1 filters do, are one, and so are
     * rows of one pixel. */
    if (g.q == 1) across = down;
    ptrdiff_t together = down == g.q * across ? rows : 1;
    ptrdiff_t panels = gemm_panels(g.k), end = cn_part(panels, groups, group + 1);
    for (ptrdiff_t panel = cn_part(panels, groups, group); panel < end; panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g.k, panel);
        gemm_epilogue epilogue = {a->b.data ? (const real *)a->b.data + j : NULL, (int)a->relu, 0};
        gemm_panel filters = few    ? gemm_in_place(packed, 1)
                             : stay ? gemm_in_place(w + j, g.k)
                                    : gemm_packed(packed + depth * j, width);
        for (ptrdiff_t i = 0; i < rows; i += together) {
            gemm_rows pixels = {.x = x.data + i * down,
                                .ld = across,
                                .run_stride = x.pitch,
                                .runs = g.r,
                                .run_length = g.s * g.c,
                                .step = 1,
                                .groups = 1,
                                .far = 1};
            gemm_panel met = filters;
            if (together == 1) skip_border_rows(&pixels, &met, part.row + i * g.stride_h, g.h);
            real *out = y + i * g.q * g.k + j;
            if (few)
                CN(dots_run)(&(dots){.x = pixels.x,
                                     .ld = across,
                                     .rows = together * g.q,
                                     .runs = pixels.runs,
                                     .run_stride = x.pitch,
                                     .run_length = g.s * g.c,
                                     .w = met.data,
                                     .ldw = depth,
                                     .columns = g.k,
                                     .bias = epilogue.bias,
                                     .relu = epilogue.relu,
                                     .y = out,
                                     .row = g.k,
                                     .column = 1});
            else
                CN(gemm)(&pixels, together * g.q, met, width, out, g.k, epilogue);
        }
    }
    /* While the rows are at hand. */
    if (cn_present(a->mean))
        CN(row_moments)(moments_of(a) + chunk * moments_size(g.k), y, rows * g.q, g.k);
}

static ptrdiff_t moments_stage(const void *args, ptrdiff_t n) {
    (void)n;
    const conv2d_forward *a = args;
    return cn_present(a->mean) ? moments_chunks(a->mean.shape[0]) : 0;
}

static void merge(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    CN(merge_moments)(a->mean.data, a->var.data, moments_of(a), moments_parts(a, &g, step->n), g.k,
                      chunk);
}

/* Backward: filters are packed for dx; dx, dw and db, or parts of them; what parts there are is
 * added up. */

static geometry backward_geometry(const conv2d_backward *a) {
    return geometry_of(a->x, a->w, a->dy, a->stride, a->padding);
}

static int direct_dw(const conv2d_backward *a) { return cn_present(a->dw) && !a->winograd_dw; }

/* Whether dw waits until all of dx is made: their transforms, larger than the filters, then use
 * the same memory, where threads share those of dx. */
static int apart(const conv2d_backward *a) {
    return cn_present(a->dx) && cn_present(a->dw) && a->winograd_dx && a->winograd_dw;
}

typedef struct {
    ptrdiff_t dw, db, bytes; /* of the workspace, behind the filters for dx; and its size */
    ptrdiff_t own, scratch;  /* a thread's, in bytes: what it keeps, and all */
} backward_layout;

static backward_layout layout_of(const conv2d_backward *a, const geometry *g) {
    backward_layout o;
    ptrdiff_t bytes = (ptrdiff_t)sizeof(real), filters = 0, sums = 0;
    winograd dw = winograd_of(g, g->n, a->winograd_dw), dx = winograd_dx(g, g->n, a->winograd_dx);
    o.own = o.scratch = 0;
    if (cn_present(a->dx) && dx.m) {
        o.own = CN(winograd_own_size)(&dx) * bytes;
        filters = CN(winograd_filter_size)(&dx);
        o.scratch = CN(winograd_scratch)(&dx) * bytes;
    } else if (cn_present(a->dx)) {
        filters = CN(conv_input_filters_size)(g);
        o.scratch = CN(conv_input_scratch)(g);
    }
    if (cn_present(a->dw) && dw.m) {
        sums = CN(winograd_weights_size)(&dw);
        o.scratch = cn_max(o.scratch, CN(winograd_scratch)(&dw) * bytes);
    } else if (cn_present(a->dw)) {
        sums = CN(conv_weights_size)(g);
        o.scratch = cn_max(o.scratch, CN(conv_weights_scratch)(g));
    }
    o.scratch += o.own;
    filters = cn_round_up(filters * bytes, 64);
    o.dw = apart(a) ? 0 : filters;
    o.db = cn_max(filters, o.dw + cn_round_up(sums * bytes, 64));
    o.bytes = o.db + reduce_parts(g->n * g->p * g->q) * g->k * (ptrdiff_t)sizeof(double);
    return o;
}

static real *weights_workspace(const conv2d_backward *a, const geometry *g) {
    return (real *)((char *)a->head.workspace + layout_of(a, g).dw);
}
static double *bias_workspace(const conv2d_backward *a, const geometry *g) {
    return (double *)((char *)a->head.workspace + layout_of(a, g).db);
}

static const char *backward_check(const void *args) {
    const conv2d_backward *a = args;
    const char *wrong = check_geometry(a->x, a->w, a->dy, a->stride, a->padding);
    if (!wrong) wrong = check_winograd(a->winograd_dx, a->w, a->stride, a->padding);
    if (!wrong) wrong = check_winograd(a->winograd_dw, a->w, a->stride, a->padding);
    if (wrong) return wrong;
    if (cn_present(a->dx) && !cn_same(a->dx, a->x)) return "dx must have the shape of x";
    if (cn_present(a->dw) && !cn_same(a->dw, a->w)) return "dw must have the shape of w";
    if (!cn_optional(a->db, 1, a->w.shape[3], 1, 1, 1)) return "db must have shape (k,)";
    return NULL;
}

static ptrdiff_t backward_workspace(const void *args) {
    geometry g = backward_geometry(args);
    return layout_of(args, &g).bytes;
}

static ptrdiff_t backward_scratch(const void *args) {
    geometry g = backward_geometry(args);
    return layout_of(args, &g).scratch;
}

static ptrdiff_t filter_chunks(const conv2d_backward *a, const geometry *g) {
    winograd o = winograd_dx(g, g->n, a->winograd_dx);
    if (!cn_present(a->dx)) return 0;
    if (a->winograd_dx) return CN(winograd_filter_chunks)(&o);
    return CN(conv_input_pack_chunks)(g);
}

static ptrdiff_t backward_pack_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    geometry g = backward_geometry(args);
    return filter_chunks(args, &g) + (direct_dw(args) ? CN(conv_weights_pack_chunks)(&g) : 0);
}

static void backward_pack(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    ptrdiff_t filters = filter_chunks(a, &g);
    if (chunk >= filters) {
        CN(conv_weights_pack)(&g, step->n, a->dy.data, weights_workspace(a, &g), chunk - filters);
        return;
    }
    if (a->winograd_dx) {
        winograd o = winograd_dx(&g, g.n, a->winograd_dx);
        CN(winograd_filter)(&o, a->w.data, 1, a->head.workspace, chunk);
        return;
    }
    CN(conv_input_pack)(&g, a->w.data, a->head.workspace, chunk);
}

static ptrdiff_t dx_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    winograd o = winograd_dx(&g, n, a->winograd_dx);
    if (!cn_present(a->dx)) return 0;
    return a->winograd_dx ? CN(winograd_chunks)(&o) : CN(conv_input_chunks)(&g, n);
}

static void dx_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    void *own = scratch;
    scratch = (char *)scratch + layout_of(a, &g).own;
    if (a->winograd_dx) {
        winograd o = winograd_dx(&g, step->n, a->winograd_dx);
        winograd_filters filters = {a->head.workspace, a->w.data, 1, own};
        CN(winograd_run)(&o, a->dy.data, filters, (winograd_epilogue){NULL, 0, NULL}, a->dx.data,
                         chunk, scratch);
        return;
    }
    CN(conv_input)(&g, step->n, a->dy.data, a->head.workspace, a->dx.data, chunk, scratch);
}

static ptrdiff_t dw_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    winograd o = winograd_of(&g, n, a->winograd_dw);
    if (!cn_present(a->dw)) return 0;
    return a->winograd_dw ? CN(winograd_weights_chunks)(&o) : CN(conv_weights_chunks)(&g, n);
}
static ptrdiff_t together_chunks(const void *args, ptrdiff_t n) {
    return apart(args) ? 0 : dw_chunks(args, n);
}
static ptrdiff_t apart_chunks(const void *args, ptrdiff_t n) {
    return apart(args) ? dw_chunks(args, n) : 0;
}

static void dw_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    winograd o = winograd_of(&g, step->n, a->winograd_dw);
    real *workspace = weights_workspace(a, &g);
    scratch = (char *)scratch + layout_of(a, &g).own;
    if (a->winograd_dw)
        CN(winograd_weights)(&o, a->x.data, a->dy.data, workspace, chunk, scratch);
    else
        CN(conv_weights)(&g, step->n, a->x.data, a->dy.data, a->dw.data, workspace, chunk, scratch);
}

static ptrdiff_t db_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    return cn_present(a->db) ? reduce_parts(n * g.p * g.q) : 0;
}

static void db_run(const void *args, const cn_step *step, ptrdiff_t part, void *scratch) {
    (void)scratch;
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    CN(sum_part)(bias_workspace(a, &g), a->dy.data, step->n * g.p * g.q, g.k, part);
}

static ptrdiff_t combine_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    winograd o = winograd_of(&g, n, a->winograd_dw);
    ptrdiff_t weights = !cn_present(a->dw) ? 0
                        : a->winograd_dw   ? CN(winograd_combine_chunks)(&o)
                                           : CN(conv_weights_combine_chunks)(&g, n);
    return weights + cn_present(a->db);
}

static void combine(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    winograd o = winograd_of(&g, step->n, a->winograd_dw);
    if (cn_present(a->db) && chunk-- == 0)
        CN(add_double_parts)(a->db.data, bias_workspace(a, &g), reduce_parts(step->n * g.p * g.q),
                             g.k);
    else if (a->winograd_dw)
        CN(winograd_combine)(&o, weights_workspace(a, &g), a->dw.data, chunk);
    else
        CN(conv_weights_combine)(&g, step->n, weights_workspace(a, &g), a->dw.data, chunk);
}

#define CN_ARGS_TYPE conv2d_forward
static const cn_kernel forward = {
    .name = "conv2d_forward",
    .args_size = sizeof(conv2d_forward),
    .fields = CN_TABLE(CONV2D_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .scratch = forward_scratch,
    .stages = {{forward_pack_chunks, forward_pack},
               {forward_chunks, forward_run},
               {moments_stage, merge}},
    .once = 1,
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE conv2d_backward
static const cn_kernel backward = {
    .name = "conv2d_backward",
    .args_size = sizeof(conv2d_backward),
    .fields = CN_TABLE(CONV2D_BACKWARD),
    .check = backward_check,
    .workspace = backward_workspace,
    .scratch = backward_scratch,
    .stages = {{backward_pack_chunks, backward_pack},
               {dx_chunks, dx_run},
               {together_chunks, dw_run, .joins = 1},
               {db_chunks, db_run, .joins = 1},
               {apart_chunks, dw_run},
               {combine_chunks, combine}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(conv2d)[] = {&forward, &backward, NULL};
