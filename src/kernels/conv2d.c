#include "conv2d.h"

#include "gemm.h"
#include "moments.h"
#include "reduce.h"
#include "winograd.h"

/* What the three passes share: the sizes under the vocabulary's names. */
typedef struct {
    ptrdiff_t n, h, w, c, r, s, k, p, q;
    ptrdiff_t stride_h, stride_w, top, left;
} geometry;

/* A stride beyond the padded image leaves one position, as the largest stride within it does. */
static geometry geometry_of(cn_tensor x, cn_tensor w, cn_tensor y, const ptrdiff_t *stride,
                            const ptrdiff_t *padding) {
    return (geometry){
        .n = x.shape[0],
        .h = x.shape[1],
        .w = x.shape[2],
        .c = x.shape[3],
        .r = w.shape[0],
        .s = w.shape[1],
        .k = w.shape[3],
        .p = y.shape[1],
        .q = y.shape[2],
        .stride_h = cn_min(stride[0], x.shape[1] + padding[0] + padding[1]),
        .stride_w = cn_min(stride[1], x.shape[2] + padding[2] + padding[3]),
        .top = padding[0],
        .left = padding[2],
    };
}

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
    if ((double)cn_elements(w) > MAX_PRODUCT) return "w is too large";
    if (y.shape[0] != x.shape[0] || y.shape[3] != w.shape[3])
        return "y must have shape (n, p, q, k)";
    return NULL;
}

/* Part of an image, with zeros where it reaches outside. */
typedef struct {
    ptrdiff_t row, rows, column, columns;
} window;

static void copy_window(real *to, const real *image, ptrdiff_t h, ptrdiff_t w, ptrdiff_t c,
                        window part) {
    ptrdiff_t left = cn_clamp(-part.column, 0, part.columns);
    ptrdiff_t end = cn_clamp(w - part.column, left, part.columns);
    for (ptrdiff_t i = 0; i < part.rows; i++, to += part.columns * c) {
        ptrdiff_t row = part.row + i;
        if (row < 0 || row >= h || end == left) {
            memset(to, 0, (size_t)(part.columns * c) * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(left * c) * sizeof(real));
        memcpy(to + left * c, image + (row * w + part.column + left) * c,
               (size_t)((end - left) * c) * sizeof(real));
        memset(to + end * c, 0, (size_t)((part.columns - end) * c) * sizeof(real));
    }
}

/* The window of x under output rows p0 .. p0+rows-1. */
static window input_window(const geometry *g, ptrdiff_t p0, ptrdiff_t rows) {
    return (window){p0 * g->stride_h - g->top, (rows - 1) * g->stride_h + g->r, -g->left,
                    (g->q - 1) * g->stride_w + g->s};
}

/* A window in memory: its first pixel, and from row to row. */
typedef struct {
    const real *data;
    ptrdiff_t pitch;
} view;

/* The image itself where the window lies inside it, and a zero-bordered copy where not. */
static int inside(ptrdiff_t h, ptrdiff_t w, window part) {
    return part.row >= 0 && part.row + part.rows <= h && part.column >= 0 &&
           part.column + part.columns <= w;
}
static view read_window(real *scratch, const real *image, ptrdiff_t h, ptrdiff_t w, ptrdiff_t c,
                        window part) {
    if (inside(h, w, part)) return (view){image + (part.row * w + part.column) * c, w * c};
    copy_window(scratch, image, h, w, c, part);
    return (view){scratch, part.columns * c};
}

/* Whether 1x1 filters skip pixels of a row. */
static int skips(const geometry *g) { return g->r * g->s == 1 && g->stride_w > 1; }

/* Of a window's pixels those that such filters meet, side by side. */
static void copy_met(real *to, view x, const geometry *g, ptrdiff_t rows) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < g->q; j++, to += g->c) {
            const real *from = x.data + i * g->stride_h * x.pitch + j * g->stride_w * g->c;
            V_EACH(l, 0, g->c, v_store_n(to + l, v_load_n(from + l, some), some));
        }
}

/* Output rows of one chunk: their input window stays near 128 KiB. */
static ptrdiff_t forward_block(const geometry *g) {
    window one = input_window(g, 0, 1);
    return cn_clamp((128 << 10) / ((ptrdiff_t)sizeof(real) * one.columns * g->c * g->stride_h), 1,
                    g->p);
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

/* The filters, packed or transformed, begin the workspace; the moments of parts of y follow. */
static ptrdiff_t filters_room(const conv2d_forward *a, const geometry *g) {
    winograd o = winograd_of(g, g->n, a->winograd);
    ptrdiff_t direct = gemm_packed_size(g->r * g->s * g->c, g->k);
    ptrdiff_t reals = o.m ? CN(winograd_filter_size)(&o) : direct;
    return cn_round_up(reals * (ptrdiff_t)sizeof(real), 64);
}

static double *moments_of(const conv2d_forward *a, const geometry *g) {
    if (!cn_present(a->mean)) return NULL;
    return (double *)((char *)a->head.workspace + filters_room(a, g));
}

/* Parts whose moments are made: of a direct sum each chunk. */
static ptrdiff_t moments_parts(const conv2d_forward *a, const geometry *g, ptrdiff_t n) {
    winograd o = winograd_of(g, n, a->winograd);
    return o.m ? CN(winograd_parts)(&o) : n * cn_ceil_div(g->p, forward_block(g));
}

static ptrdiff_t forward_workspace(const void *args) {
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    ptrdiff_t parts = cn_present(a->mean) ? moments_parts(a, &g, g.n) : 0;
    return filters_room(a, &g) + parts * moments_size(g.k) * (ptrdiff_t)sizeof(double);
}

static ptrdiff_t window_bytes(window part, ptrdiff_t c) {
    return part.rows * part.columns * c * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t forward_scratch(const void *args) {
    geometry g = forward_geometry(args);
    winograd o = winograd_of(&g, g.n, ((const conv2d_forward *)args)->winograd);
    if (o.m) return CN(winograd_scratch)(&o) * (ptrdiff_t)sizeof(real);
    return window_bytes(input_window(&g, 0, forward_block(&g)), g.c);
}

/* A filter of one panel is packed as it stands. */
static int filter_is_panel(const geometry *g) { return g->k <= GEMM_NR && g->k % VL == 0; }

static ptrdiff_t forward_pack_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    geometry g = forward_geometry(args);
    winograd o = winograd_of(&g, g.n, ((const conv2d_forward *)args)->winograd);
    if (o.m) return CN(winograd_filter_chunks)(&o);
    return filter_is_panel(&g) ? 0 : gemm_panels(g.k);
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
    CN(gemm_pack)((real *)a->head.workspace + depth * j, (const real *)a->w.data + j, g.k, 1, depth,
                  gemm_panel_width(g.k, panel));
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    geometry g = forward_geometry(args);
    winograd o = winograd_of(&g, n, ((const conv2d_forward *)args)->winograd);
    if (o.m) return CN(winograd_chunks)(&o);
    return n * cn_ceil_div(g.p, forward_block(&g));
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const conv2d_forward *a = args;
    geometry g = forward_geometry(a);
    if (a->winograd) {
        winograd o = winograd_of(&g, step->n, a->winograd);
        winograd_epilogue epilogue = {a->b.data, (int)a->relu, moments_of(a, &g)};
        CN(winograd_run)(&o, a->x.data, a->head.workspace, epilogue, a->y.data, chunk, scratch);
        return;
    }
    ptrdiff_t block = forward_block(&g), blocks = cn_ceil_div(g.p, block);
    ptrdiff_t image = chunk / blocks, p0 = chunk % blocks * block, rows = cn_min(block, g.p - p0);
    window part = input_window(&g, p0, rows);
    view x = read_window(scratch, (const real *)a->x.data + image * g.h * g.w * g.c, g.h, g.w, g.c,
                         part);
    ptrdiff_t depth = g.r * g.s * g.c;
    real *y = (real *)a->y.data + (image * g.p + p0) * g.q * g.k;
    const real *packed = filter_is_panel(&g) ? a->w.data : a->head.workspace;
    ptrdiff_t across = g.stride_w * g.c, down = g.stride_h * x.pitch;
    if (skips(&g) && x.data != scratch) {
        copy_met(scratch, x, &g, rows);
        x.data = scratch, across = g.c, down = g.q * g.c;
    }
    /* Rows that follow each other without a gap, as those of 1x1 filters do, are one. */
    ptrdiff_t together = down == g.q * across ? rows : 1;
    for (ptrdiff_t panel = 0; panel < gemm_panels(g.k); panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g.k, panel);
        gemm_epilogue epilogue = {a->b.data ? (const real *)a->b.data + j : NULL, (int)a->relu, 0};
        for (ptrdiff_t i = 0; i < rows; i += together) {
            gemm_rows pixels = {x.data + i * down, across, x.pitch, g.r, g.s * g.c, 1, 1, 0, 0};
            CN(gemm)(&pixels, together * g.q, gemm_packed(packed + depth * j, width), width,
                     y + i * g.q * g.k + j, g.k, epilogue);
        }
    }
    /* While the rows are at hand. */
    if (cn_present(a->mean))
        CN(row_moments)(moments_of(a, &g) + chunk * moments_size(g.k), y, rows * g.q, g.k);
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
    CN(merge_moments)(a->mean.data, a->var.data, moments_of(a, &g), moments_parts(a, &g, step->n),
                      g.k, chunk);
}

/* dx. With stride s, the pixels of dx whose position plus the padding is a modulo s meet the filter
 * taps a, a+s, a+2s ... only: s*s ordinary stride-1 convolutions of dy, each with its own part of
 * the filter, turned around. Nothing is ever multiplied by an inserted zero. */

static ptrdiff_t phase_taps(ptrdiff_t filter, ptrdiff_t stride, ptrdiff_t phase) {
    return phase < filter ? cn_ceil_div(filter - phase, stride) : 0;
}

/* Phases with taps, along an axis: those beyond the filter have none. */
static ptrdiff_t phases(ptrdiff_t filter, ptrdiff_t stride) { return cn_min(filter, stride); }

/* The packed filters of phase (a, b) begin after those of all phases before it. */
static ptrdiff_t phase_offset(const geometry *g, ptrdiff_t a, ptrdiff_t b) {
    ptrdiff_t before = 0;
    for (ptrdiff_t i = 0; i < a; i++) before += phase_taps(g->r, g->stride_h, i) * g->s;
    for (ptrdiff_t i = 0; i < b; i++)
        before += phase_taps(g->r, g->stride_h, a) * phase_taps(g->s, g->stride_w, i);
    return before * g->k * cn_round_up(g->c, VL);
}

static void pack_phase(const conv2d_backward *args, const geometry *g, real *packed, ptrdiff_t a,
                       ptrdiff_t b) {
    ptrdiff_t rows = phase_taps(g->r, g->stride_h, a), columns = phase_taps(g->s, g->stride_w, b);
    ptrdiff_t depth = rows * columns * g->k;
    packed += phase_offset(g, a, b);
    for (ptrdiff_t panel = 0; panel < gemm_panels(g->c); panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->c, panel);
        for (ptrdiff_t t = 0; t < rows; t++)
            for (ptrdiff_t u = 0; u < columns; u++) {
                ptrdiff_t r = a + (rows - 1 - t) * g->stride_h;
                ptrdiff_t s = b + (columns - 1 - u) * g->stride_w;
                const real *w = (const real *)args->w.data + ((r * g->s + s) * g->c + j) * g->k;
                CN(gemm_pack)(packed + depth * j +
                                  (t * columns + u) * g->k * cn_round_up(width, VL),
                              w, 1, g->k, g->k, width);
            }
    }
}

static ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) { return a / b - (a % b < 0); }

/* The window of dy that rows i0 .. i0+rows-1 of dx read. */
static window dy_window(const geometry *g, ptrdiff_t i0, ptrdiff_t rows) {
    ptrdiff_t row = floor_div(i0 + g->top, g->stride_h) - (phase_taps(g->r, g->stride_h, 0) - 1);
    ptrdiff_t column = floor_div(g->left, g->stride_w) - (phase_taps(g->s, g->stride_w, 0) - 1);
    return (window){row, floor_div(i0 + rows - 1 + g->top, g->stride_h) - row + 1, column,
                    floor_div(g->w - 1 + g->left, g->stride_w) - column + 1};
}

/* Where 1x1 filters skip some pixels and meet none outside the image, y has a row for every
 * stride_h of x, begun or whole. The gradients of those they meet are then made side by side and
 * spread, with zeros for the others; which pays where a pixel fills a line or, of wide vectors,
 * two. */
static int spreads(const geometry *g) {
    int inner = g->top == 0 && g->left == 0 && (g->p - 1) * g->stride_h < g->h &&
                (g->q - 1) * g->stride_w < g->w;
    return skips(g) && inner && g->c * (ptrdiff_t)sizeof(real) >= (GEMM_NV == 2 ? 64 : 128);
}

static ptrdiff_t dx_block(const geometry *g) {
    ptrdiff_t deep = spreads(g) ? cn_max(g->k, g->c) : g->k, columns = dy_window(g, 0, 1).columns;
    ptrdiff_t rows = (128 << 10) * g->stride_h / ((ptrdiff_t)sizeof(real) * columns * deep);
    return cn_clamp(rows, 1, g->h);
}

/* Rows of dx from row i on, from the window of dy: one, or at stride 1 several that follow each
 * other in dy as in dx. */
static void dx_rows(const geometry *g, const real *packed, view dy, window part, ptrdiff_t i,
                    ptrdiff_t together, real *dx) {
    ptrdiff_t a = (i + g->top) % g->stride_h, rows = phase_taps(g->r, g->stride_h, a);
    ptrdiff_t row = (i + g->top - a) / g->stride_h - (rows - 1) - part.row;
    ptrdiff_t with_taps = phases(g->s, g->stride_w);
    if (rows == 0 || with_taps < g->stride_w) memset(dx, 0, (size_t)(g->w * g->c) * sizeof(real));
    if (rows == 0) return;
    for (ptrdiff_t b = 0; b < with_taps; b++) {
        ptrdiff_t columns = phase_taps(g->s, g->stride_w, b);
        ptrdiff_t j0 = (b - g->left % g->stride_w + g->stride_w) % g->stride_w;
        if (j0 >= g->w) continue;
        ptrdiff_t pixels = cn_ceil_div(g->w - j0, g->stride_w) * together;
        ptrdiff_t depth = rows * columns * g->k;
        ptrdiff_t column = (j0 + g->left - b) / g->stride_w - (columns - 1) - part.column;
        gemm_rows read = {dy.data + row * dy.pitch + column * g->k,
                          g->k,
                          dy.pitch,
                          rows,
                          columns * g->k,
                          1,
                          1,
                          0,
                          0};
        const real *panels = packed + phase_offset(g, a, b);
        for (ptrdiff_t panel = 0; panel < gemm_panels(g->c); panel++) {
            ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->c, panel);
            CN(gemm)(&read, pixels, gemm_packed(panels + depth * j, width), width,
                     dx + j0 * g->c + j, g->stride_w * g->c, (gemm_epilogue){NULL, 0, 0});
        }
    }
}

CN_INLINE void put_zeros(real *dx, ptrdiff_t count, int past) {
    V_EACH(l, 0, count, v_put(dx + l, (vec){0}, some, past));
}

static void dx_spread(const geometry *g, const real *packed, const real *dy, ptrdiff_t i0,
                      ptrdiff_t rows, real *met, real *dx, int past) {
    ptrdiff_t p0 = cn_ceil_div(i0, g->stride_h), p1 = cn_ceil_div(i0 + rows, g->stride_h);
    gemm_rows read = {dy + p0 * g->q * g->k, g->k, 0, 1, g->k, 1, 1, 0, 0};
    for (ptrdiff_t panel = 0; panel < gemm_panels(g->c); panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->c, panel);
        CN(gemm)(&read, (p1 - p0) * g->q, gemm_packed(packed + g->k * j, width), width, met + j,
                 g->c, (gemm_epilogue){NULL, 0, 0});
    }
    for (ptrdiff_t i = i0; i < i0 + rows; i++, dx += g->w * g->c) {
        ptrdiff_t q = i % g->stride_h == 0 ? g->q : 0, end = 0;
        for (ptrdiff_t j = 0; j < q; j++, met += g->c) {
            ptrdiff_t from = j * g->stride_w * g->c;
            put_zeros(dx + end, from - end, past);
            end = from + g->c;
            V_EACH(l, 0, g->c, v_put(dx + from + l, v_load_n(met + l, some), some, past));
        }
        put_zeros(dx + end, g->w * g->c - end, past);
    }
}

/* dw: the reduction runs over pixels. One filter row r at a time, where the rows of the product are
 * (s, c), which lie side by side in x; where filters are many, tap by tap of copies, below. */

/* Output rows at a time: near 512 pixels, 256 where there are many filters. Of small images several
 * are taken together, so that the sums are not fetched and put back for a few pixels each. */
static ptrdiff_t weight_block(const geometry *g) {
    return cn_clamp((g->k < 64 ? 512 : 256) / g->q, 1, g->p);
}
static ptrdiff_t weight_images(const geometry *g) {
    return weight_block(g) < g->p ? 1 : cn_max(1, 64 / (g->p * g->q));
}

/* Chunks of dw, for the threads to share; in so many parts, if there is memory for them, that each
 * makes all of dw and reads dy and x once. Of copies at most so many. */
enum { ENOUGH = 16 };

typedef struct {
    ptrdiff_t filter_rows, weights;      /* r s c rows of w; reals of w in panels */
    ptrdiff_t parts;                     /* of the reduction over the batch, at most */
    ptrdiff_t dw_parts, db_parts, bytes; /* workspace, behind the packed filters */
    ptrdiff_t packed_dy, scratch;        /* a thread's scratch: window of x, then dy; or planes */
    int copies; /* whether dw is made of planes; panels of dy are where its parts would be */
} backward_layout;

static geometry backward_geometry(const conv2d_backward *a) {
    return geometry_of(a->x, a->w, a->dy, a->stride, a->padding);
}

/* Whether dw has a stage of its own, after dx: their transforms, larger than the filters, then use
 * the same memory. */
static int apart(const conv2d_backward *a) {
    return cn_present(a->dx) && cn_present(a->dw) && a->winograd_dx && a->winograd_dw;
}

/* Where filters are many, a chunk of dw is a few channels of x, for all pixels, taps and filters.
 * It copies them to blocks (gemm.h): for each column of the filter the pixels which that column
 * meets, row by row, so that what a tap meets of an image is one run. Rows that the filter moves
 * along by several at once are as many planes, along which it moves by one. Few filters do not pay
 * for the copies; fewer are enough with 16 registers, which read x more often, and where rows are
 * short. Several small images go together; larger ones are not copied, nor would their dy be small.
 */
enum { MANY_FILTERS = GEMM_NV == 2 ? 256 : 1024, FEW_CHANNELS = 64, PIXELS = 256, MOST_TAPS = 256 };
static int copies_pay(const geometry *g) {
    return g->k >= MANY_FILTERS / 16 * cn_clamp(g->q, 4, 16) && g->c >= FEW_CHANNELS &&
           g->r * g->s > 1 && g->r * g->s <= MOST_TAPS && g->p * g->q <= PIXELS;
}

static ptrdiff_t channel_groups(const geometry *g) {
    ptrdiff_t blocks = cn_ceil_div(g->c, GEMM_BLOCK);
    return cn_ceil_div(blocks, cn_ceil_div(blocks, ENOUGH));
}

static ptrdiff_t images_together(const geometry *g) { return PIXELS / (g->p * g->q); }

static ptrdiff_t plane_rows(const geometry *g, ptrdiff_t phase) {
    return g->p + phase_taps(g->r, g->stride_h, phase) - 1;
}

/* Pixels before the planes of column s and a phase; before those of column g->s are all. */
static ptrdiff_t pixels_before(const geometry *g, ptrdiff_t images, ptrdiff_t s, ptrdiff_t phase) {
    ptrdiff_t before = 0, column = 0;
    for (ptrdiff_t i = 0; i < phases(g->r, g->stride_h); i++) {
        if (i < phase) before += plane_rows(g, i);
        column += plane_rows(g, i);
    }
    return (s * column + before) * images * g->q;
}

static backward_layout layout_of(const conv2d_backward *a, const geometry *g) {
    backward_layout o;
    ptrdiff_t real_bytes = (ptrdiff_t)sizeof(real);
    o.filter_rows = g->r * g->s * g->c;
    o.weights = gemm_packed_size(o.filter_rows, g->k);
    ptrdiff_t parts = cn_max(64 / gemm_panels(g->k), ENOUGH);
    o.copies = cn_present(a->dw) && !a->winograd_dw && copies_pay(g);
    o.parts = o.copies ? 1 : cn_min(parts, cn_max(1, (4 << 20) / (o.weights * 8)));
    winograd dw = winograd_of(g, g->n, a->winograd_dw), dx = winograd_dx(g, g->n, a->winograd_dx);
    ptrdiff_t packed =
        dx.m ? CN(winograd_filter_size)(&dx) : gemm_packed_size(g->r * g->s * g->k, g->c);
    ptrdiff_t sums = dw.m       ? CN(winograd_weights_size)(&dw)
                     : o.copies ? gemm_packed_size(g->n * g->p * g->q, g->k)
                                : o.parts * o.weights;
    ptrdiff_t filters = cn_present(a->dx) ? cn_round_up(packed * real_bytes, 64) : 0;
    o.dw_parts = apart(a) ? 0 : filters;
    o.db_parts = cn_max(filters, o.dw_parts + cn_round_up(sums * real_bytes, 64));
    o.bytes = o.db_parts + reduce_parts(g->n * g->p * g->q) * g->k * (ptrdiff_t)sizeof(double);
    ptrdiff_t block = weight_block(g);
    ptrdiff_t images = weight_images(g);
    o.packed_dy = cn_round_up(images * window_bytes(input_window(g, 0, block), g->c), 64);
    ptrdiff_t strip = cn_min(GEMM_STRIP, cn_round_up(g->k, VL));
    o.scratch = o.packed_dy + images * block * g->q * strip * real_bytes;
    if (o.copies) {
        ptrdiff_t pixels = pixels_before(g, images_together(g), g->s, 0);
        ptrdiff_t blocks = cn_ceil_div(cn_ceil_div(g->c, GEMM_BLOCK), channel_groups(g));
        o.scratch = blocks * gemm_block_size(pixels) * real_bytes;
    }
    if (cn_present(a->dx)) {
        ptrdiff_t rows = dx_block(g), met = cn_ceil_div(rows, g->stride_h) * g->q * g->c;
        ptrdiff_t under = window_bytes(dy_window(g, 0, rows + g->stride_h), g->k);
        o.scratch = cn_max(o.scratch, spreads(g) ? met * real_bytes : under);
    }
    if (dx.m) o.scratch = cn_max(o.scratch, CN(winograd_scratch)(&dx) * real_bytes);
    if (dw.m) o.scratch = cn_max(o.scratch, CN(winograd_scratch)(&dw) * real_bytes);
    return o;
}

static ptrdiff_t active_parts(backward_layout o, ptrdiff_t n) { return cn_min(o.parts, n); }

/* Groups of strips of dw, each with its chunks: few, since a chunk reads x once for all its strips,
 * but ENOUGH chunks. */
static ptrdiff_t strip_groups(const geometry *g, backward_layout o, ptrdiff_t n) {
    return cn_min(gemm_strips(g->k), cn_ceil_div(ENOUGH, active_parts(o, n)));
}

/* Whether dw is written as it is summed. Otherwise the sums of each panel lie together: two threads
 * that write beside each other would get in each other's way. */
static int sums_are_dw(const geometry *g, backward_layout o, ptrdiff_t n) {
    return o.copies || (active_parts(o, n) == 1 && gemm_panels(g->k) == 1);
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
    return phases(g->r, g->stride_h) * phases(g->s, g->stride_w);
}

static ptrdiff_t backward_pack_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    geometry g = backward_geometry(args);
    return filter_chunks(args, &g) + (layout_of(args, &g).copies ? gemm_strips(g.k) : 0);
}

static void backward_pack(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    ptrdiff_t filters = filter_chunks(a, &g);
    if (chunk >= filters) {
        ptrdiff_t j = (chunk - filters) * GEMM_STRIP, pixels = step->n * g.p * g.q;
        real *panels = (real *)((char *)a->head.workspace + layout_of(a, &g).dw_parts);
        CN(gemm_pack)(panels + pixels * j, (const real *)a->dy.data + j, g.k, 1, pixels,
                      cn_min(GEMM_STRIP, g.k - j));
        return;
    }
    if (a->winograd_dx) {
        winograd o = winograd_dx(&g, g.n, a->winograd_dx);
        CN(winograd_filter)(&o, a->w.data, 1, a->head.workspace, chunk);
        return;
    }
    ptrdiff_t across = phases(g.s, g.stride_w);
    pack_phase(a, &g, a->head.workspace, chunk / across, chunk % across);
}

static ptrdiff_t dx_chunks(const conv2d_backward *a, const geometry *g, ptrdiff_t n) {
    winograd o = winograd_dx(g, n, a->winograd_dx);
    if (!cn_present(a->dx)) return 0;
    return a->winograd_dx ? CN(winograd_chunks)(&o) : n * cn_ceil_div(g->h, dx_block(g));
}

static ptrdiff_t dw_chunks(const conv2d_backward *a, const geometry *g, backward_layout o,
                           ptrdiff_t n) {
    winograd dw = winograd_of(g, n, a->winograd_dw);
    if (!cn_present(a->dw)) return 0;
    if (o.copies) return channel_groups(g);
    return a->winograd_dw ? CN(winograd_weights_chunks)(&dw)
                          : active_parts(o, n) * strip_groups(g, o, n);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    return dx_chunks(a, &g, n) + (apart(a) ? 0 : dw_chunks(a, &g, layout_of(a, &g), n)) +
           (cn_present(a->db) ? reduce_parts(n * g.p * g.q) : 0);
}

static ptrdiff_t apart_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    return apart(a) ? dw_chunks(a, &g, layout_of(a, &g), n) : 0;
}

static void dx_run(const conv2d_backward *a, const geometry *g, ptrdiff_t n, ptrdiff_t chunk,
                   void *scratch) {
    if (a->winograd_dx) {
        winograd o = winograd_dx(g, n, a->winograd_dx);
        CN(winograd_run)(&o, a->dy.data, a->head.workspace, (winograd_epilogue){NULL, 0, NULL},
                         a->dx.data, chunk, scratch);
        return;
    }
    ptrdiff_t block = dx_block(g), blocks = cn_ceil_div(g->h, block);
    ptrdiff_t image = chunk / blocks, i0 = chunk % blocks * block, rows = cn_min(block, g->h - i0);
    window part = dy_window(g, i0, rows);
    const real *gradients = (const real *)a->dy.data + image * g->p * g->q * g->k;
    if (spreads(g)) {
        dx_spread(g, a->head.workspace, gradients, i0, rows, scratch,
                  (real *)a->dx.data + (image * g->h + i0) * g->w * g->c,
                  rows_past_caches(a->dx, NULL));
        return;
    }
    view dy = read_window(scratch, gradients, g->p, g->q, g->k, part);
    ptrdiff_t stride = g->stride_h * g->stride_w;
    ptrdiff_t together = stride == 1 && dy.pitch == g->w * g->k ? rows : 1;
    for (ptrdiff_t i = i0; i < i0 + rows; i += together)
        dx_rows(g, a->head.workspace, dy, part, i, together,
                (real *)a->dx.data + (image * g->h + i) * g->w * g->c);
}

/* What the filter's first row meets of some images, under `rows` rows of their outputs: the pixels
 * where they are, or a zero-bordered copy, or those that are not skipped, gathered. `line` is from
 * row to row of x, for filters of several rows. */
static gemm_rows dw_pixels(const geometry *g, const real *image, ptrdiff_t images, ptrdiff_t p0,
                           ptrdiff_t rows, real *scratch, ptrdiff_t *line) {
    window under = input_window(g, p0, rows);
    view x = read_window(scratch, image, g->h, g->w, g->c, under);
    ptrdiff_t example = g->h * g->w * g->c, next = example, met = rows * g->q;
    *line = x.pitch;
    if (x.data == scratch) {
        next = under.rows * x.pitch;
        for (ptrdiff_t i = 1; i < images; i++)
            copy_window(scratch + i * next, image + i * example, g->h, g->w, g->c, under);
    } else if (skips(g) && g->c >= 64) { /* fewer channels do not pay for it, as measured */
        for (ptrdiff_t i = 0; i < images; i++)
            copy_met(scratch + i * met * g->c, (view){x.data + i * example, x.pitch}, g, rows);
        return (gemm_rows){scratch, 1, 0, 1, images * met, g->c, 1, 0, 0};
    }
    ptrdiff_t down = g->stride_h * x.pitch, across = g->stride_w * g->c;
    return (gemm_rows){x.data, 1, down, rows, g->q, across, images, next, 0};
}

/* Sums over pixels of one panel, a filter row at a time, from row to row of x; the result's pitch
 * is the panel's own where none is given. */
static void dw_panel(const geometry *g, gemm_rows pixels, ptrdiff_t line, gemm_panel panel,
                     ptrdiff_t width, real *out, ptrdiff_t pitch, int accumulate) {
    ptrdiff_t taps = g->s * g->c;
    if (!pitch) pitch = cn_round_up(width, VL);
    for (ptrdiff_t r = 0; r < g->r; r++, pixels.x += line, out += taps * pitch)
        CN(gemm)(&pixels, taps, panel, width, out, pitch, (gemm_epilogue){NULL, 0, accumulate});
}

/* Zeros for some pixels outside the image. */
static void put_border(real *blocks, ptrdiff_t block, ptrdiff_t channels, ptrdiff_t pixels) {
    for (ptrdiff_t i = 0; i < channels; i += GEMM_BLOCK, blocks += block)
        memset(blocks, 0, (size_t)(pixels * GEMM_BLOCK) * sizeof(real));
}

/* Some channels of images, which begin at x, as planes; in ascending order, as gemm_copy wants it.
 */
static void copy_planes(const geometry *g, const real *x, ptrdiff_t channels, ptrdiff_t images,
                        real *blocks, ptrdiff_t block) {
    for (ptrdiff_t s = 0; s < g->s; s++) {
        ptrdiff_t first = s - g->left; /* pixel of a row, and what lies inside it of g->q */
        ptrdiff_t left = cn_clamp(cn_ceil_div(-first, g->stride_w), 0, g->q);
        ptrdiff_t right = cn_clamp(cn_ceil_div(g->w - first, g->stride_w), left, g->q);
        for (ptrdiff_t phase = 0; phase < phases(g->r, g->stride_h); phase++) {
            ptrdiff_t plane = plane_rows(g, phase);
            for (ptrdiff_t i = 0; i < images * plane; i++, blocks += g->q * GEMM_BLOCK) {
                ptrdiff_t row = i % plane * g->stride_h + phase - g->top;
                ptrdiff_t begin = row < 0 || row >= g->h ? right : left;
                ptrdiff_t pixel = (i / plane * g->h + row) * g->w + first + begin * g->stride_w;
                put_border(blocks, block, channels, begin);
                if (begin < right)
                    CN(gemm_copy)(blocks + begin * GEMM_BLOCK, block, x + pixel * g->c,
                                  g->stride_w * g->c, right - begin, channels);
                put_border(blocks + right * GEMM_BLOCK, block, channels, g->q - right);
            }
        }
    }
}

/* All taps and filters of a chunk's channels, summed over all pixels. */
static void dw_of_copies(const conv2d_backward *a, const geometry *g, backward_layout o,
                         ptrdiff_t n, ptrdiff_t chunk, real *planes) {
    ptrdiff_t all = cn_ceil_div(g->c, GEMM_BLOCK), groups = channel_groups(g);
    ptrdiff_t channel = cn_part(all, groups, chunk) * GEMM_BLOCK;
    ptrdiff_t channels = cn_min(g->c, cn_part(all, groups, chunk + 1) * GEMM_BLOCK) - channel;
    ptrdiff_t pixels = g->p * g->q, together = images_together(g);
    gemm_columns dy = {(const real *)((const char *)a->head.workspace + o.dw_parts), 0, n * pixels,
                       g->k};
    for (ptrdiff_t image = 0; image < n; image += together) {
        ptrdiff_t images = cn_min(together, n - image);
        ptrdiff_t block = gemm_block_size(pixels_before(g, images, g->s, 0));
        copy_planes(g, (const real *)a->x.data + image * g->h * g->w * g->c + channel, channels,
                    images, planes, block);
        for (ptrdiff_t j = 0; j < g->k; j += GEMM_NR) {
            gemm_panel panel = gemm_panel_at(&dy, j);
            panel.data += image * pixels * panel.pitch;
            for (ptrdiff_t tap = 0; tap < g->r * g->s; tap++) {
                ptrdiff_t r = tap / g->s, phase = r % g->stride_h, down = r / g->stride_h;
                ptrdiff_t before = pixels_before(g, images, tap % g->s, phase) + down * g->q;
                ptrdiff_t next = plane_rows(g, phase) * g->q * GEMM_BLOCK;
                const real *met = planes + before * GEMM_BLOCK;
                gemm_rows rows = {met, 1, 0, 1, pixels, GEMM_BLOCK, images, next, block};
                CN(gemm)(&rows, channels, panel, cn_min(GEMM_NR, g->k - j),
                         (real *)a->dw.data + (tap * g->c + channel) * g->k + j, g->k,
                         (gemm_epilogue){NULL, 0, image > 0});
            }
        }
    }
}

static void dw_run(const conv2d_backward *a, const geometry *g, backward_layout o, ptrdiff_t n,
                   ptrdiff_t chunk, char *scratch) {
    if (a->winograd_dw) {
        winograd dw = winograd_of(g, n, a->winograd_dw);
        CN(winograd_weights)(&dw, a->x.data, a->dy.data,
                             (real *)((char *)a->head.workspace + o.dw_parts), chunk,
                             (real *)scratch);
        return;
    }
    if (o.copies) {
        dw_of_copies(a, g, o, n, chunk, (real *)scratch);
        return;
    }
    ptrdiff_t strips = gemm_strips(g->k), groups = strip_groups(g, o, n), group = chunk % groups;
    ptrdiff_t from = cn_part(strips, groups, group) * GEMM_STRIP;
    ptrdiff_t to = cn_min(g->k, cn_part(strips, groups, group + 1) * GEMM_STRIP);
    ptrdiff_t parts = active_parts(o, n), part = chunk / groups;
    real *packed = (real *)(scratch + o.packed_dy);
    int direct = sums_are_dw(g, o, n);
    real *sums = (real *)((char *)a->head.workspace + o.dw_parts) + part * o.weights;
    ptrdiff_t block = weight_block(g), together = weight_images(g), example = g->h * g->w * g->c;
    ptrdiff_t image = cn_part(n, parts, part), end = cn_part(n, parts, part + 1);
    int accumulate = 0;
    for (ptrdiff_t images; image < end; image += images) {
        images = cn_min(together, end - image);
        for (ptrdiff_t p0 = 0; p0 < g->p; p0 += block) {
            ptrdiff_t rows = cn_min(block, g->p - p0), line;
            gemm_rows pixels = dw_pixels(g, (const real *)a->x.data + image * example, images, p0,
                                         rows, (real *)scratch, &line);
            const real *dy = (const real *)a->dy.data + (image * g->p + p0) * g->q * g->k;
            for (ptrdiff_t j = from; j < to; j += GEMM_STRIP) {
                gemm_columns strip =
                    CN(gemm_columns_of)(packed, dy + j, g->k, 1, images * rows * g->q,
                                        cn_min(GEMM_STRIP, to - j), o.filter_rows, 0);
                for (ptrdiff_t i = 0; i < strip.width; i += GEMM_NR) {
                    real *out =
                        direct ? (real *)a->dw.data + j + i : sums + o.filter_rows * (j + i);
                    dw_panel(g, pixels, line, gemm_panel_at(&strip, i),
                             cn_min(GEMM_NR, strip.width - i), out, direct ? g->k : 0, accumulate);
                }
            }
            accumulate = 1;
        }
    }
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    backward_layout o = layout_of(a, &g);
    ptrdiff_t n = step->n, first = dx_chunks(a, &g, n);
    ptrdiff_t weights = apart(a) ? 0 : dw_chunks(a, &g, o, n), rows = n * g.p * g.q;
    if (chunk < first) {
        dx_run(a, &g, n, chunk, scratch);
    } else if (chunk < first + weights) {
        dw_run(a, &g, o, n, chunk - first, scratch);
    } else {
        ptrdiff_t part = chunk - first - weights, parts = reduce_parts(rows);
        ptrdiff_t from = cn_part(rows, parts, part), to = cn_part(rows, parts, part + 1);
        CN(sum_rows)((double *)((char *)a->head.workspace + o.db_parts) + part * g.k,
                     (const real *)a->dy.data + from * g.k, to - from, g.k);
    }
}

static void apart_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    dw_run(a, &g, layout_of(a, &g), step->n, chunk, scratch);
}

/* Rows of dw that one chunk adds up: some 4096 elements. */
static ptrdiff_t combine_rows(const geometry *g) { return cn_max(1, 4096 / g->k); }

static ptrdiff_t combine_chunks(const void *args, ptrdiff_t n) {
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    backward_layout o = layout_of(a, &g);
    winograd dw = winograd_of(&g, n, a->winograd_dw);
    if (cn_present(a->dw) && a->winograd_dw)
        return CN(winograd_combine_chunks)(&dw) + cn_present(a->db);
    int parts = cn_present(a->dw) && !sums_are_dw(&g, o, n);
    return (parts ? cn_ceil_div(o.filter_rows, combine_rows(&g)) : 0) + cn_present(a->db);
}

static void combine(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const conv2d_backward *a = args;
    geometry g = backward_geometry(a);
    backward_layout o = layout_of(a, &g);
    char *workspace = a->head.workspace;
    if (cn_present(a->db) && chunk-- == 0) {
        CN(add_double_parts)(a->db.data, (const double *)(workspace + o.db_parts),
                             reduce_parts(step->n * g.p * g.q), g.k);
        return;
    }
    if (a->winograd_dw) {
        winograd dw = winograd_of(&g, step->n, a->winograd_dw);
        CN(winograd_combine)(&dw, (const real *)(workspace + o.dw_parts), a->dw.data, chunk);
        return;
    }
    ptrdiff_t end = cn_min(o.filter_rows, (chunk + 1) * combine_rows(&g));
    for (ptrdiff_t row = chunk * combine_rows(&g); row < end; row++)
        for (ptrdiff_t panel = 0; panel < gemm_panels(g.k); panel++) {
            ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g.k, panel);
            const real *sums = (const real *)(workspace + o.dw_parts) +
                               gemm_packed_place(o.filter_rows, g.k, row, j);
            CN(add_parts)((real *)a->dw.data + row * g.k + j, sums, active_parts(o, step->n),
                          o.weights, 0, width);
        }
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
               {backward_chunks, backward_run},
               {apart_chunks, apart_run},
               {combine_chunks, combine}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(conv2d)[] = {&forward, &backward, NULL};
