/* A convolution over NHWC images as its passes have it in common: sizes, the pixels that filters
 * meet, and the phases of strides. */
#ifndef CN_CONV_H
#define CN_CONV_H

#include "dots.h"
#include "gemm.h"

/* The sizes under the vocabulary's names. */
typedef struct {
    ptrdiff_t n, h, w, c, r, s, k, p, q;
    ptrdiff_t stride_h, stride_w, top, left;
} geometry;

/* A column of pixels under filters of one column lies in memory as a row does. Lying down it is one
 * product, where rows are one each, and few channels fill vectors together with those of the pixels
 * beside them. */
static inline geometry laid_down(geometry g) {
    if (g.w > 1 || g.s > 1 || g.q > 1 || g.left > 0) return g;
    geometry row = g;
    row.h = 1, row.w = g.h;
    row.r = 1, row.s = g.r;
    row.p = 1, row.q = g.p;
    row.stride_h = 1, row.stride_w = g.stride_h;
    row.top = 0, row.left = g.top;
    return row;
}

/* A stride beyond the padded image leaves one position, as the largest stride within it does. */
static inline geometry geometry_of(cn_tensor x, cn_tensor w, cn_tensor y, const ptrdiff_t *stride,
                                   const ptrdiff_t *padding) {
    return laid_down((geometry){
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
    });
}

/* What a chunk reads of an image stays near this size. */
enum { PATCH_BYTES = 128 << 10 };

/* Results of a chunk's pass over an image: whole rows of them; of a single row, which may be a long
 * sequence, so many columns, near `most` but enough for a product. */
static inline ptrdiff_t piece_columns(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t most) {
    return rows == 1 ? cn_clamp(most, cn_min(64, columns), columns) : columns;
}

/* Images of h x w results in pieces of at most `rows` x `columns`: how many an image is, and where
 * one lies. */
typedef struct {
    ptrdiff_t h, w, rows, columns;
} tiling;
typedef struct {
    ptrdiff_t image, row, rows, column, columns;
} piece;
static inline ptrdiff_t pieces_of_image(tiling t) {
    return cn_ceil_div(t.h, t.rows) * cn_ceil_div(t.w, t.columns);
}
static inline piece piece_at(tiling t, ptrdiff_t i) {
    ptrdiff_t across = cn_ceil_div(t.w, t.columns), of_image = i % pieces_of_image(t);
    ptrdiff_t row = of_image / across * t.rows, column = of_image % across * t.columns;
    return (piece){i / pieces_of_image(t), row, cn_min(t.rows, t.h - row), column,
                   cn_min(t.columns, t.w - column)};
}

/* Columns q0 .. q0+count-1 of y alone are what the filters give from so much further right. */
static inline geometry piece_of_y(geometry g, ptrdiff_t q0, ptrdiff_t count) {
    g.q = count;
    g.left -= q0 * g.stride_w;
    return g;
}

/* So are columns j0 .. j0+count-1 of dx. */
static inline geometry piece_of_x(geometry g, ptrdiff_t j0, ptrdiff_t count) {
    g.w = count;
    g.left += j0;
    return g;
}

/* Whether filters are so few that vectors go along their rows, of column and channel, as measured:
 * more than four need longer rows, and where there are no masks a tail costs more. */
static inline int few_filters(const geometry *g) {
    ptrdiff_t row = g->s * g->c;
    if (g->k > DOTS_MOST) return 0;
    if (CN_VECTOR_BYTES == 64) return row >= (g->k > 4 ? 3 : 1) * VL;
    return row >= 8 * VL || (row >= 2 * VL && row % VL == 0);
}

/* Part of an image, with zeros where it reaches outside. */
typedef struct {
    ptrdiff_t row, rows, column, columns;
} patch;

static inline void copy_patch(real *to, const real *image, ptrdiff_t h, ptrdiff_t w, ptrdiff_t c,
                              patch part) {
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

/* The patch of x under output rows p0 .. p0+rows-1. */
static inline patch input_patch(const geometry *g, ptrdiff_t p0, ptrdiff_t rows) {
    return (patch){p0 * g->stride_h - g->top, (rows - 1) * g->stride_h + g->r, -g->left,
                   (g->q - 1) * g->stride_w + g->s};
}

/* A patch in memory: its first pixel, and from row to row. */
typedef struct {
    const real *data;
    ptrdiff_t pitch;
} view;

/* The image itself where the patch lies inside it, and a zero-bordered copy where not. */
static inline int inside(ptrdiff_t h, ptrdiff_t w, patch part) {
    return part.row >= 0 && part.row + part.rows <= h && part.column >= 0 &&
           part.column + part.columns <= w;
}
static inline view read_patch(real *scratch, const real *image, ptrdiff_t h, ptrdiff_t w,
                              ptrdiff_t c, patch part) {
    if (inside(h, w, part)) return (view){image + (part.row * w + part.column) * c, w * c};
    copy_patch(scratch, image, h, w, c, part);
    return (view){scratch, part.columns * c};
}

/* Whether 1x1 filters skip pixels of a row. */
static inline int skips(const geometry *g) { return g->r * g->s == 1 && g->stride_w > 1; }

/* Of a patch's pixels those that such filters meet, side by side. */
static inline void copy_met(real *to, view x, const geometry *g, ptrdiff_t rows) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < g->q; j++, to += g->c) {
            const real *from = x.data + i * g->stride_h * x.pitch + j * g->stride_w * g->c;
            V_EACH(l, 0, g->c, v_store_n(to + l, v_load_n(from + l, some), some));
        }
}

static inline ptrdiff_t patch_bytes(patch part, ptrdiff_t c) {
    return part.rows * part.columns * c * (ptrdiff_t)sizeof(real);
}

/* Leaves out the filter rows that meet nothing of an image of h rows, at and after `row`: finite
 * filters would add zeros. */
static inline void skip_border_rows(gemm_rows *pixels, gemm_panel *filters, ptrdiff_t row,
                                    ptrdiff_t h) {
    ptrdiff_t first = cn_clamp(-row, 0, pixels->runs), end = cn_clamp(h - row, first, pixels->runs);
    pixels->x += first * pixels->run_stride;
    pixels->runs = end - first;
    filters->data += first * pixels->run_length * filters->pitch;
}

/* With stride s, positions whose phase, modulo s, is a meet the filter taps a, a+s, a+2s ... only:
 * so many of an axis. */
static inline ptrdiff_t phase_taps(ptrdiff_t filter, ptrdiff_t stride, ptrdiff_t phase) {
    return phase < filter ? cn_ceil_div(filter - phase, stride) : 0;
}

/* Phases with taps, along an axis: those beyond the filter have none. */
static inline ptrdiff_t phases(ptrdiff_t filter, ptrdiff_t stride) {
    return cn_min(filter, stride);
}

#endif
