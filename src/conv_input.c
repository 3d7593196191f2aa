#include "conv_input.h"

/* By the phase of their positions, padding counted, dx's pixels belong to stride_h*stride_w
 * ordinary stride-1 convolutions of dy, each with its own part of the filter, turned around.
 * Nothing is ever multiplied by an inserted zero. */

/* The packed filters of phase (a, b) begin after those of all phases before it. */
static ptrdiff_t phase_offset(const geometry *g, ptrdiff_t a, ptrdiff_t b) {
    ptrdiff_t before = 0;
    for (ptrdiff_t i = 0; i < a; i++) before += phase_taps(g->r, g->stride_h, i) * g->s;
    for (ptrdiff_t i = 0; i < b; i++)
        before += phase_taps(g->r, g->stride_h, a) * phase_taps(g->s, g->stride_w, i);
    return before * g->k * cn_round_up(g->c, VL);
}

static void pack_phase(const geometry *g, const real *w, real *packed, ptrdiff_t a, ptrdiff_t b,
                       ptrdiff_t panel) {
    ptrdiff_t rows = phase_taps(g->r, g->stride_h, a), columns = phase_taps(g->s, g->stride_w, b);
    ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->c, panel);
    packed += phase_offset(g, a, b) + rows * columns * g->k * j;
    for (ptrdiff_t t = 0; t < rows; t++)
        for (ptrdiff_t u = 0; u < columns; u++) {
            ptrdiff_t r = a + (rows - 1 - t) * g->stride_h, s = b + (columns - 1 - u) * g->stride_w;
            CN(gemm_pack)(packed + (t * columns + u) * g->k * cn_round_up(width, VL),
                          w + ((r * g->s + s) * g->c + j) * g->k, 1, g->k, g->k, width);
        }
}

static ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) { return a / b - (a % b < 0); }

/* The patch of dy that rows i0 .. i0+rows-1 of dx read. */
static patch dy_patch(const geometry *g, ptrdiff_t i0, ptrdiff_t rows) {
    ptrdiff_t row = floor_div(i0 + g->top, g->stride_h) - (phase_taps(g->r, g->stride_h, 0) - 1);
    ptrdiff_t column = floor_div(g->left, g->stride_w) - (phase_taps(g->s, g->stride_w, 0) - 1);
    return (patch){row, floor_div(i0 + rows - 1 + g->top, g->stride_h) - row + 1, column,
                   floor_div(g->w - 1 + g->left, g->stride_w) - column + 1};
}

/* Reals of a row of dx that is made as a whole, in one of the two ways below: longer ones are cut
 * into pieces instead. */
enum { MOST_MET = 1 << 20 };

/* Where 1x1 filters skip some pixels and meet none outside the image, y has a row for every
 * stride_h of x, begun or whole. The gradients of those they meet are then made side by side and
 * spread, with zeros for the others; which pays where a pixel fills a line or, with 32 registers,
 * two. */
static int spreads(const geometry *g) {
    int inner = g->top == 0 && g->left == 0 && (g->p - 1) * g->stride_h < g->h &&
                (g->q - 1) * g->stride_w < g->w;
    return skips(g) && inner && g->c * (ptrdiff_t)sizeof(real) >= (GEMM_NV == 2 ? 64 : 128) &&
           (double)g->q * (double)g->c <= MOST_MET;
}

/* Rows of dx from row i on, from the patch of dy: one, or at stride 1 several that follow each
 * other in dy as in dx. Panels from .. to of the channels. */
static void dx_rows(const geometry *g, const real *packed, view dy, patch part, ptrdiff_t i,
                    ptrdiff_t together, ptrdiff_t from, ptrdiff_t to, real *dx) {
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
        const real *first = dy.data + row * dy.pitch + column * g->k;
        gemm_rows read = {.x = first,
                          .ld = g->k,
                          .run_stride = dy.pitch,
                          .runs = rows,
                          .run_length = columns * g->k,
                          .step = 1,
                          .groups = 1,
                          .far = 1};
        const real *panels = packed + phase_offset(g, a, b);
        for (ptrdiff_t panel = from; panel < to; panel++) {
            ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->c, panel);
            gemm_rows met = read;
            gemm_panel filters = gemm_packed(panels + depth * j, width);
            if (together == 1) skip_border_rows(&met, &filters, part.row + row, g->p);
            CN(gemm)(&met, pixels, filters, width, dx + j0 * g->c + j, g->stride_w * g->c,
                     (gemm_epilogue){NULL, 0, 0});
        }
    }
}

CN_INLINE void put_zeros(real *dx, ptrdiff_t count, int past) {
    V_EACH(l, 0, count, v_put(dx + l, (vec){0}, some, past));
}

static void dx_spread(const geometry *g, const real *packed, const real *dy, ptrdiff_t i0,
                      ptrdiff_t rows, real *met, real *dx, int past) {
    ptrdiff_t p0 = cn_ceil_div(i0, g->stride_h), p1 = cn_ceil_div(i0 + rows, g->stride_h);
    gemm_rows read = {.x = dy + p0 * g->q * g->k,
                      .ld = g->k,
                      .runs = 1,
                      .run_length = g->k,
                      .step = 1,
                      .groups = 1,
                      .far = 1};
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

/* Where an image is hardly wider than its filters, or has few channels, most of what those products
 * meet is zeros, or empty lanes. Then each pixel of dy is multiplied with the columns of a filter
 * row side by side, (s, c) of them, and a pixel of dx is the sum of those that belong to it
 * (col2im, along rows). Nothing meets a border. */
static ptrdiff_t lanes(ptrdiff_t columns) {
    return cn_round_up(columns, CN_VECTOR_BYTES == 64 ? VL / 2 : VL);
}
static int beside(const geometry *g) {
    double pixels = (double)g->w * (double)g->s / (double)g->stride_w * (double)lanes(g->c);
    double met = (double)g->q * (double)lanes(g->s * g->c);
    return !spreads(g) && met <= MOST_MET && 1.25 * met <= pixels;
}

/* The filters as they are packed: side by side, a filter row is one tap, of s*c channels. */
static geometry as_packed(const geometry *g) {
    geometry o = *g;
    if (beside(g)) o.c = g->s * g->c, o.s = 1, o.stride_w = 1;
    return o;
}

/* Rows and columns of dx of one chunk: their patch of dy stays near PATCH_BYTES. */
static tiling dx_tiling(const geometry *g) {
    ptrdiff_t reals = PATCH_BYTES / (ptrdiff_t)sizeof(real);
    ptrdiff_t deep = spreads(g) ? cn_max(g->k, g->c) : g->k;
    patch one = dy_patch(g, 0, 1);
    int whole = beside(g) || spreads(g);
    ptrdiff_t columns = reals / (g->k * one.rows) * g->stride_w;
    return (tiling){g->h, g->w, cn_clamp(reals * g->stride_h / (one.columns * deep), 1, g->h),
                    whole ? g->w : piece_columns(g->h, g->w, columns)};
}

/* A row of dx, each pixel the sum of what is its part of `met`. */
static void gather_beside(const geometry *g, const real *met, real *dx) {
    ptrdiff_t pitch = cn_round_up(g->s * g->c, VL), back = g->stride_w * g->c - pitch;
    ptrdiff_t phase = g->left % g->stride_w, at = g->left / g->stride_w;
    for (ptrdiff_t j = 0; j < g->w; j++, dx += g->c) {
        ptrdiff_t first = cn_max(0, at - g->q + 1);
        ptrdiff_t end = cn_min(phase_taps(g->s, g->stride_w, phase), at + 1);
        const real *part = met + at * pitch + phase * g->c;
        V_EACH(l, 0, g->c, {
            vec sum = {0};
            for (ptrdiff_t u = first; u < end; u++) sum += v_load_n(part + u * back + l, some);
            v_store_n(dx + l, sum, some);
        });
        if (++phase == g->stride_w) phase = 0, at++;
    }
}

/* Row i of dx, from its image of dy. */
static void dx_beside(const geometry *g, const real *packed, const real *dy, ptrdiff_t i, real *met,
                      real *dx) {
    ptrdiff_t a = (i + g->top) % g->stride_h, rows = phase_taps(g->r, g->stride_h, a);
    ptrdiff_t row = (i + g->top - a) / g->stride_h - (rows - 1), columns = g->s * g->c;
    if (rows == 0 || row + rows <= 0 || row >= g->p) {
        memset(dx, 0, (size_t)(g->w * g->c) * sizeof(real));
        return;
    }
    geometry filter = as_packed(g);
    packed += phase_offset(&filter, a, 0);
    ptrdiff_t pitch = g->q * g->k;
    for (ptrdiff_t panel = 0; panel < gemm_panels(columns); panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(columns, panel);
        gemm_rows read = {.x = dy + row * pitch,
                          .ld = g->k,
                          .run_stride = pitch,
                          .runs = rows,
                          .run_length = g->k,
                          .step = 1,
                          .groups = 1,
                          .far = 1};
        gemm_panel filters = gemm_packed(packed + rows * g->k * j, width);
        skip_border_rows(&read, &filters, row, g->p);
        CN(gemm)(&read, g->q, filters, cn_round_up(width, VL), met + j, cn_round_up(columns, VL),
                 (gemm_epilogue){NULL, 0, 0});
    }
    gather_beside(g, met, dx);
}

ptrdiff_t CN(conv_input_filters_size)(const geometry *g) {
    geometry o = as_packed(g);
    return gemm_packed_size(o.r * o.s * o.k, o.c);
}

/* A panel of a phase each. */
ptrdiff_t CN(conv_input_pack_chunks)(const geometry *g) {
    geometry o = as_packed(g);
    return phases(o.r, o.stride_h) * phases(o.s, o.stride_w) * gemm_panels(o.c);
}

void CN(conv_input_pack)(const geometry *g, const real *w, real *filters, ptrdiff_t chunk) {
    geometry o = as_packed(g);
    ptrdiff_t panels = gemm_panels(o.c), phase = chunk / panels;
    ptrdiff_t across = phases(o.s, o.stride_w);
    pack_phase(&o, w, filters, phase / across, phase % across, chunk % panels);
}

ptrdiff_t CN(conv_input_scratch)(const geometry *g) {
    tiling t = dx_tiling(g);
    ptrdiff_t met = cn_ceil_div(t.rows, g->stride_h) * g->q * g->c;
    if (beside(g)) met = g->q * cn_round_up(g->s * g->c, VL);
    if (beside(g) || spreads(g)) return met * (ptrdiff_t)sizeof(real);
    geometry first = piece_of_x(*g, 0, t.columns + g->stride_w);
    return patch_bytes(dy_patch(&first, 0, t.rows + g->stride_h), g->k);
}

/* A group writes its channels only; but zeros, of phases without taps, go to all. */
static ptrdiff_t dx_groups(const geometry *g, ptrdiff_t n) {
    int taps = g->r >= g->stride_h && g->s >= g->stride_w && !beside(g);
    return taps ? cn_pieces(n * pieces_of_image(dx_tiling(g)), gemm_panels(g->c)) : 1;
}

ptrdiff_t CN(conv_input_chunks)(const geometry *g, ptrdiff_t n) {
    return n * pieces_of_image(dx_tiling(g)) * dx_groups(g, n);
}

void CN(conv_input)(const geometry *g, ptrdiff_t n, const real *dy, const real *filters, real *dx,
                    ptrdiff_t chunk, void *scratch) {
    int past = g->c % VL == 0 && large_result(dx, g->n * g->h * g->w * g->c);
    ptrdiff_t groups = dx_groups(g, n), group = chunk % groups, panels = gemm_panels(g->c);
    chunk /= groups;
    piece at = piece_at(dx_tiling(g), chunk);
    ptrdiff_t i0 = at.row, rows = at.rows;
    dy += at.image * g->p * g->q * g->k;
    dx += ((at.image * g->h + i0) * g->w + at.column) * g->c;
    if (spreads(g)) {
        dx_spread(g, filters, dy, i0, rows, scratch, dx, past);
        return;
    }
    if (beside(g)) {
        for (ptrdiff_t i = 0; i < rows; i++)
            dx_beside(g, filters, dy, i0 + i, scratch, dx + i * g->w * g->c);
        return;
    }
    geometry cut = piece_of_x(*g, at.column, at.columns);
    g = &cut;
    patch part = dy_patch(g, i0, rows);
    view met = read_patch(scratch, dy, g->p, g->q, g->k, part);
    ptrdiff_t stride = g->stride_h * g->stride_w;
    ptrdiff_t together = stride == 1 && met.pitch == g->w * g->k ? rows : 1;
    for (ptrdiff_t i = 0; i < rows; i += together)
        dx_rows(g, filters, met, part, i0 + i, together, cn_part(panels, groups, group),
                cn_part(panels, groups, group + 1), dx + i * g->w * g->c);
}
