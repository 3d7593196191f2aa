#include "winograd_rows.h"

#include "winograd_transform.h"

/* Outputs of a tile, filter's side, points. */
enum { M = 4, R = 7, SIZE = M + R - 1 };

/* Terms of the sum that remains: filter row and channel, which lie side by side in u and v. */
static ptrdiff_t depth_of(const winograd *g) { return R * g->c; }

/* Filters: u[point] is a (r c, k) matrix in panels. */

ptrdiff_t CN(winograd_rows_filter_size)(const winograd *g) {
    return SIZE * gemm_packed_size(depth_of(g), g->k);
}

/* Rows of u that one chunk makes, and of dw. */
enum { FILTER_ROWS = 32 };

ptrdiff_t CN(winograd_rows_filter_chunks)(const winograd *g) {
    return cn_ceil_div(depth_of(g), FILTER_ROWS);
}

/* Up to VL columns of w from j on, for a filter row and channel: of tap s, or turned around. */
static vec read_tap(const winograd *g, const real *w, int turned, ptrdiff_t row, ptrdiff_t s,
                    ptrdiff_t j) {
    ptrdiff_t r = row / g->c, channel = row % g->c;
    if (!turned) return v_load_n(w + ((r * R + s) * g->c + channel) * g->k + j, g->k - j);
    const real *from = w + ((R - 1 - r) * R + R - 1 - s) * g->k * g->c + channel;
    vec tap = {0};
    for (ptrdiff_t i = 0; i < cn_min(VL, g->k - j); i++) tap[i] = from[(j + i) * g->c];
    return tap;
}

void CN(winograd_rows_filter)(const winograd *g, const real *w, int turned, real *u,
                              ptrdiff_t chunk) {
    ptrdiff_t end = cn_min(depth_of(g), (chunk + 1) * FILTER_ROWS);
    ptrdiff_t point = gemm_packed_size(depth_of(g), g->k);
    for (ptrdiff_t row = chunk * FILTER_ROWS; row < end; row++)
        for (ptrdiff_t j = 0; j < g->k; j += VL) {
            vec in[R], out[SIZE];
            for (int s = 0; s < R; s++) in[s] = read_tap(g, w, turned, row, s, j);
            one_way(FILTER, SIZE, R, in, out);
            real *to = u + gemm_packed_place(depth_of(g), g->k, row, j);
            for (int i = 0; i < SIZE; i++) v_store(to + i * point, out[i]);
        }
}

/* A block is some output rows of one image. In scratch it has
 *     columns[column][row][channel]    the input under it, with zeros outside the image
 *     v[point][tile][row][channel]     transformed
 *     p[point][tile][row][k]           the products of one panel, or the transformed gradients of a
 *                                      strip's panels, one after the other
 * so that the rows of a product, one for each output row, are a line's steps of one pixel. */
typedef struct {
    ptrdiff_t tiles, rows, blocks; /* across; of a block at most; of an image */
    ptrdiff_t line, width;         /* of a column; of a panel's row */
    ptrdiff_t v_point, p_point;
    ptrdiff_t v, p, size; /* places in scratch, in reals */
} layout;

static layout layout_of(const winograd *g) {
    layout o;
    o.tiles = cn_ceil_div(g->q, M);
    o.width = cn_min(cn_round_up(g->k, VL), GEMM_NR);
    /* Products, and what they are made of, that stay near. */
    ptrdiff_t widest = cn_max(cn_min(cn_round_up(g->k, VL), GEMM_STRIP), g->c);
    ptrdiff_t most = (384 << 10) / (SIZE * o.tiles * widest * (ptrdiff_t)sizeof(real));
    o.blocks = cn_ceil_div(g->p, cn_clamp(most, 1, g->p));
    o.rows = cn_ceil_div(g->p, o.blocks);
    /* Pixels are written as whole vectors. A little more than a power of two from point to point,
     * which would fall into the same few sets of the cache. */
    o.line = cn_round_up((o.rows + R - 1) * g->c + VL, VL);
    o.v_point = o.tiles * o.line + VL;
    o.p_point = o.tiles * o.rows * o.width + VL;
    o.v = (o.tiles * M + R - 1) * o.line;
    o.p = o.v + SIZE * o.v_point;
    o.size = o.p + cn_min(gemm_panels(g->k), GEMM_TOGETHER) * SIZE * o.p_point;
    return o;
}

typedef struct {
    ptrdiff_t image, row, rows; /* of outputs */
} place;

static place place_of(const winograd *g, const layout *o, ptrdiff_t block) {
    ptrdiff_t image = block / o->blocks, part = block % o->blocks;
    ptrdiff_t row = cn_part(g->p, o->blocks, part);
    return (place){image, row, cn_part(g->p, o->blocks, part + 1) - row};
}

/* v of a block. */
static void read_block(const winograd *g, const layout *o, const real *x, place at, real *columns,
                       real *v) {
    ptrdiff_t c = g->c, rows = at.rows + R - 1;
    x += at.image * g->h * g->w * c;
    for (ptrdiff_t i = 0; i < o->tiles * M + R - 1; i++) {
        v_store(columns + i * o->line + rows * c, (vec){0}); /* what the last vector reads beyond */
        for (ptrdiff_t j = 0; j < rows; j++) {
            ptrdiff_t row = at.row - g->top + j, column = i - g->left;
            int inside = row >= 0 && row < g->h && column >= 0 && column < g->w;
            const real *pixel = x + (row * g->w + column) * c;
            for (ptrdiff_t l = 0; l < c; l += VL)
                v_store(columns + i * o->line + j * c + l,
                        inside ? v_load_n(pixel + l, c - l) : (vec){0});
        }
    }
    for (ptrdiff_t t = 0; t < o->tiles; t++)
        for (ptrdiff_t l = 0; l < rows * c; l += VL) {
            vec in[SIZE], out[SIZE];
#pragma GCC unroll 10
            for (int i = 0; i < SIZE; i++) in[i] = v_load(columns + (t * M + i) * o->line + l);
            one_way(INPUT, SIZE, 0, in, out);
#pragma GCC unroll 10
            for (int i = 0; i < SIZE; i++) v_store(v + i * o->v_point + t * o->line + l, out[i]);
        }
}

/* y of a block from its products, for `width` columns. */
static void write_block(const winograd *g, const layout *o, const real *p, ptrdiff_t pitch,
                        place at, ptrdiff_t width, const real *bias, int relu, real *y) {
    for (ptrdiff_t row = 0; row < at.rows; row++)
        for (ptrdiff_t t = 0; t < o->tiles; t++) {
            ptrdiff_t some = cn_min(M, g->q - t * M);
            real *to = y + (((at.image * g->p) + at.row + row) * g->q + t * M) * g->k;
            for (ptrdiff_t j = 0; j < width; j += VL) {
                vec in[SIZE], out[M];
                vec add = bias ? v_load_n(bias + j, width - j) : (vec){0};
#pragma GCC unroll 10
                for (int i = 0; i < SIZE; i++)
                    in[i] = v_load(p + i * o->p_point + (t * at.rows + row) * pitch + j);
                one_way(OUTPUT, SIZE, M, in, out);
                for (int i = 0; i < some; i++) {
                    vec value = out[i] + add;
                    if (relu) value = v_relu(value);
                    v_store_n(to + i * g->k + j, value, width - j);
                }
            }
        }
}

ptrdiff_t CN(winograd_rows_scratch)(const winograd *g) { return layout_of(g).size; }

ptrdiff_t CN(winograd_rows_chunks)(const winograd *g) { return g->n * layout_of(g).blocks; }

void CN(winograd_rows_run)(const winograd *g, const real *x, const real *u,
                           winograd_epilogue epilogue, real *y, ptrdiff_t chunk, real *scratch) {
    layout o = layout_of(g);
    place at = place_of(g, &o, chunk);
    ptrdiff_t depth = depth_of(g), matrix = gemm_packed_size(depth, g->k);
    real *v = scratch + o.v, *p = scratch + o.p;
    read_block(g, &o, x, at, scratch, v);
    real *rows_of_y = y + (at.image * g->p + at.row) * g->q * g->k;
    span here = {rows_of_y, at.rows * g->q * g->k};
    for (ptrdiff_t panel = 0; panel < gemm_panels(g->k); panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->k, panel);
        ptrdiff_t pitch = cn_round_up(width, VL);
        for (int i = 0; i < SIZE; i++) {
            if (panel == 0) ask_for(here, SIZE, i);
            for (ptrdiff_t t = 0; t < o.tiles; t++) {
                const real *line = v + i * o.v_point + t * o.line;
                gemm_rows rows = {
                    .x = line, .ld = g->c, .runs = 1, .run_length = depth, .step = 1, .groups = 1};
                CN(gemm)(
                    &rows, at.rows,
                    gemm_packed(u + i * matrix + gemm_packed_place(depth_of(g), g->k, 0, j), pitch),
                    pitch, p + i * o.p_point + t * at.rows * pitch, pitch,
                    (gemm_epilogue){NULL, 0, 0});
            }
        }
        write_block(g, &o, p, pitch, at, width, epilogue.bias ? epilogue.bias + j : NULL,
                    epilogue.relu, y + j);
    }
    if (epilogue.moments)
        CN(row_moments)(epilogue.moments + chunk * moments_size(g->k), rows_of_y, at.rows * g->q,
                        g->k);
}

/* Gradient of the filters: du[part][point] is a (r c, k) matrix in panels, the sum of v^T z over
 * the part's images. A chunk makes one strip of panels of one part. */

static ptrdiff_t weight_parts(const winograd *g) {
    ptrdiff_t room = (8 << 20) / (CN(winograd_rows_filter_size)(g) * (ptrdiff_t)sizeof(real));
    return cn_clamp(cn_ceil_div(16, gemm_strips(g->k)), 1, cn_clamp(room, 1, g->n));
}

ptrdiff_t CN(winograd_rows_weights_size)(const winograd *g) {
    return weight_parts(g) * CN(winograd_rows_filter_size)(g);
}
ptrdiff_t CN(winograd_rows_weights_chunks)(const winograd *g) {
    return weight_parts(g) * gemm_strips(g->k);
}

/* z of a block; beyond the image dy is 0. */
static void read_gradients(const winograd *g, const layout *o, const real *dy, ptrdiff_t pitch,
                           place at, ptrdiff_t width, real *z) {
    for (ptrdiff_t row = 0; row < at.rows; row++)
        for (ptrdiff_t t = 0; t < o->tiles; t++) {
            ptrdiff_t some = cn_min(M, g->q - t * M);
            const real *from = dy + (((at.image * g->p) + at.row + row) * g->q + t * M) * g->k;
            for (ptrdiff_t j = 0; j < width; j += VL) {
                vec in[M], out[SIZE];
                for (int i = 0; i < M; i++)
                    in[i] = i < some ? v_load_n(from + i * g->k + j, width - j) : (vec){0};
                one_way(GRADIENT, SIZE, M, in, out);
#pragma GCC unroll 10
                for (int i = 0; i < SIZE; i++)
                    v_store(z + i * o->p_point + (t * at.rows + row) * pitch + j, out[i]);
            }
        }
}

void CN(winograd_rows_weights)(const winograd *g, const real *x, const real *dy, real *du,
                               ptrdiff_t chunk, real *scratch) {
    layout o = layout_of(g);
    ptrdiff_t strips = gemm_strips(g->k), strip = chunk % strips, part = chunk / strips;
    ptrdiff_t from = strip * GEMM_STRIP, to = cn_min(g->k, from + GEMM_STRIP);
    ptrdiff_t depth = depth_of(g), matrix = gemm_packed_size(depth, g->k);
    ptrdiff_t parts = weight_parts(g), end = cn_part(g->n, parts, part + 1) * o.blocks;
    real *v = scratch + o.v;
    du += part * SIZE * matrix;
    int accumulate = 0;
    for (ptrdiff_t block = cn_part(g->n, parts, part) * o.blocks; block < end; block++) {
        place at = place_of(g, &o, block);
        read_block(g, &o, x, at, scratch, v);
        real *z = scratch + o.p;
        for (ptrdiff_t j = from; j < to; j += GEMM_NR, z += SIZE * o.p_point) {
            ptrdiff_t width = cn_min(GEMM_NR, to - j);
            read_gradients(g, &o, dy + j, cn_round_up(width, VL), at, width, z);
        }
        place then = place_of(g, &o, cn_min(block + 1, end - 1));
        const real *next_dy = dy + (then.image * g->p + then.row) * g->q * g->k;
        for (int i = 0; i < SIZE; i++) {
            ask_for((span){next_dy, then.rows * g->q * g->k}, SIZE, i);
            gemm_rows rows = {.x = v + i * o.v_point,
                              .ld = 1,
                              .run_stride = o.line,
                              .runs = o.tiles,
                              .run_length = at.rows,
                              .step = g->c,
                              .groups = 1};
            z = scratch + o.p + i * o.p_point;
            for (ptrdiff_t j = from; j < to; j += GEMM_NR, z += SIZE * o.p_point) {
                ptrdiff_t pitch = cn_round_up(cn_min(GEMM_NR, to - j), VL);
                CN(gemm)(&rows, depth, gemm_packed(z, pitch), pitch,
                         du + i * matrix + gemm_packed_place(depth, g->k, 0, j), pitch,
                         (gemm_epilogue){NULL, 0, accumulate});
            }
        }
        accumulate = 1;
    }
}

ptrdiff_t CN(winograd_rows_combine_chunks)(const winograd *g) {
    return cn_ceil_div(depth_of(g), FILTER_ROWS);
}

void CN(winograd_rows_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk) {
    ptrdiff_t matrix = gemm_packed_size(depth_of(g), g->k), parts = weight_parts(g);
    ptrdiff_t end = cn_min(depth_of(g), (chunk + 1) * FILTER_ROWS);
    for (ptrdiff_t row = chunk * FILTER_ROWS; row < end; row++)
        for (ptrdiff_t j = 0; j < g->k; j += VL) {
            const real *from = du + gemm_packed_place(depth_of(g), g->k, row, j);
            ptrdiff_t r = row / g->c, channel = row % g->c;
            vec in[SIZE], out[R];
            for (int i = 0; i < SIZE; i++) {
                in[i] = v_load(from + i * matrix);
                for (ptrdiff_t part = 1; part < parts; part++)
                    in[i] += v_load(from + (part * SIZE + i) * matrix);
            }
            one_way(FILTER_SUMS, SIZE, R, in, out);
            for (int s = 0; s < R; s++)
                v_store_n(dw + ((r * R + s) * g->c + channel) * g->k + j, out[s], g->k - j);
        }
}
