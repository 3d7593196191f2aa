#include "winograd.h"

/* The points +-a and +-b, and what the transforms are made of. */
static const real a1 = 0.75, b1 = 1.5;
#define A2 (a1 * a1)
#define B2 (b1 * b1)
#define BOTH (A2 * B2)
#define SUM (A2 + B2)

/* B^T d: the input's values for each point. */
CN_INLINE void input_points(const vec d[6], vec out[6]) {
    vec even_a = d[4] - B2 * d[2], odd_a = a1 * (d[3] - B2 * d[1]);
    vec even_b = d[4] - A2 * d[2], odd_b = b1 * (d[3] - A2 * d[1]);
    out[0] = BOTH * d[0] - SUM * d[2] + d[4];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = BOTH * d[1] - SUM * d[3] + d[5];
}

/* G g: the filter's, divided by the products of differences of the points. */
CN_INLINE void filter_points(const vec g[3], vec out[6]) {
    const real at_0 = 1 / BOTH, at_a = 1 / (2 * A2 * (A2 - B2)), at_b = 1 / (2 * B2 * (B2 - A2));
    vec even_a = at_a * (g[0] + A2 * g[2]), odd_a = at_a * a1 * g[1];
    vec even_b = at_b * (g[0] + B2 * g[2]), odd_b = at_b * b1 * g[1];
    out[0] = at_0 * g[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = g[2];
}

/* A^T m: four outputs from the products. */
CN_INLINE void outputs(const vec m[6], vec y[4]) {
    vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = a1 * difference_a + b1 * difference_b;
    y[2] = A2 * sum_a + B2 * sum_b;
    y[3] = A2 * a1 * difference_a + B2 * b1 * difference_b + m[5];
}

/* The transposes of the last two, for the gradient of the filters. */
CN_INLINE void output_points(const vec g[4], vec out[6]) {
    vec even_a = g[0] + A2 * g[2], odd_a = a1 * (g[1] + A2 * g[3]);
    vec even_b = g[0] + B2 * g[2], odd_b = b1 * (g[1] + B2 * g[3]);
    out[0] = g[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = g[3];
}
CN_INLINE void filter_sums(const vec u[6], vec g[3]) {
    const real at_0 = 1 / BOTH, at_a = 1 / (2 * A2 * (A2 - B2)), at_b = 1 / (2 * B2 * (B2 - A2));
    vec sum_a = at_a * (u[1] + u[2]), difference_a = at_a * a1 * (u[1] - u[2]);
    vec sum_b = at_b * (u[3] + u[4]), difference_b = at_b * b1 * (u[3] - u[4]);
    g[0] = at_0 * u[0] + sum_a + sum_b;
    g[1] = difference_a + difference_b;
    g[2] = A2 * sum_a + B2 * sum_b + u[5];
}

/* A transform of columns and then rows: out (after, after) of in (before, before). */
#define BOTH_WAYS(name, one_way, before, after)                                                    \
    CN_INLINE void name(const vec in[before][before], vec out[after][after]) {                     \
        vec half[before][after];                                                                   \
        _Pragma("GCC unroll 6") for (int j = 0; j < before; j++) {                                 \
            vec column[before], points[after];                                                     \
            _Pragma("GCC unroll 6") for (int i = 0; i < before; i++) column[i] = in[i][j];         \
            one_way(column, points);                                                               \
            _Pragma("GCC unroll 6") for (int i = 0; i < after; i++) half[j][i] = points[i];        \
        }                                                                                          \
        _Pragma("GCC unroll 6") for (int i = 0; i < after; i++) {                                  \
            vec row[before];                                                                       \
            _Pragma("GCC unroll 6") for (int j = 0; j < before; j++) row[j] = half[j][i];          \
            one_way(row, out[i]);                                                                  \
        }                                                                                          \
    }
BOTH_WAYS(transform_input, input_points, 6, 6)
BOTH_WAYS(transform_filter, filter_points, 3, 6)
BOTH_WAYS(transform_output, outputs, 6, 4)
BOTH_WAYS(transform_gradient, output_points, 4, 6)
BOTH_WAYS(transform_sums, filter_sums, 6, 3)

/* Filters: u[point] is a (c, k) matrix in panels. */

ptrdiff_t CN(winograd_filter_size)(const winograd *g) {
    return WINOGRAD_POINTS * gemm_packed_size(g->c, g->k);
}

/* Rows of c that a chunk transforms, of one panel. */
enum { FILTER_ROWS = 2 * VL };

ptrdiff_t CN(winograd_filter_chunks)(const winograd *g) {
    return gemm_panels(g->k) * cn_ceil_div(g->c, FILTER_ROWS);
}

/* The nine taps of VL rows from c0 and of up to VL columns from k0: tap[r][s][row]. */
CN_INLINE void read_taps(const winograd *g, const real *w, int turned, ptrdiff_t c0, ptrdiff_t k0,
                         vec tap[3][3][VL]) {
    for (int r = 0; r < 3; r++)
        for (int s = 0; s < 3; s++)
            if (turned) {
                const real *from = w + ((2 - r) * 3 + 2 - s) * g->k * g->c + k0 * g->c + c0;
                for (int i = 0; i < VL; i++)
                    tap[r][s][i] = k0 + i < g->k ? v_load_n(from + i * g->c, g->c - c0) : (vec){0};
                v_transpose(tap[r][s]);
            } else {
                const real *from = w + (r * 3 + s) * g->c * g->k + c0 * g->k + k0;
                for (int i = 0; i < VL; i++)
                    tap[r][s][i] = c0 + i < g->c ? v_load_n(from + i * g->k, g->k - k0) : (vec){0};
            }
}

void CN(winograd_filter)(const winograd *g, const real *w, int turned, real *u, ptrdiff_t chunk) {
    ptrdiff_t panels = gemm_panels(g->k), panel = chunk % panels;
    ptrdiff_t first = chunk / panels * FILTER_ROWS, end = cn_min(g->c, first + FILTER_ROWS);
    ptrdiff_t j0 = panel * GEMM_NR, pitch = cn_round_up(gemm_panel_width(g->k, panel), VL);
    ptrdiff_t point = gemm_packed_size(g->c, g->k);
    vec tap[3][3][VL];
    for (ptrdiff_t c0 = first; c0 < end; c0 += VL)
        for (ptrdiff_t j = 0; j < pitch; j += VL) {
            read_taps(g, w, turned, c0, j0 + j, tap);
            for (ptrdiff_t i = 0; i < cn_min(VL, end - c0); i++) {
                vec in[3][3], out[6][6];
                for (int r = 0; r < 3; r++)
                    for (int s = 0; s < 3; s++) in[r][s] = tap[r][s][i];
                transform_filter(in, out);
                real *to = u + g->c * j0 + (c0 + i) * pitch + j;
                for (int t = 0; t < WINOGRAD_POINTS; t++)
                    v_store(to + t * point, out[t / 6][t % 6]);
            }
        }
}

/* Tiles, counted over rows, columns and images. */

static ptrdiff_t tiles_down(const winograd *g) { return cn_ceil_div(g->p, WINOGRAD_TILE); }
static ptrdiff_t tiles_across(const winograd *g) { return cn_ceil_div(g->q, WINOGRAD_TILE); }
static ptrdiff_t tiles_of(const winograd *g) { return g->n * tiles_down(g) * tiles_across(g); }

typedef struct {
    ptrdiff_t image, row, column; /* of its first output */
} place;

static place place_of(const winograd *g, ptrdiff_t tile) {
    ptrdiff_t across = tiles_across(g), down = tiles_down(g);
    return (place){tile / across / down, tile / across % down * WINOGRAD_TILE,
                   tile % across * WINOGRAD_TILE};
}

/* Tiles of one block at most: their transforms stay near. One line more between two points, since
 * powers of two would fall into the same set of the cache. */
enum { BLOCK = 48 };
static ptrdiff_t point_size(ptrdiff_t channels) {
    return BLOCK * cn_round_up(channels, VL) + 64 / (ptrdiff_t)sizeof(real);
}

/* v[point][tile][channel] of `count` tiles from the first: B^T x B. `zero` holds channels zeros. */
static void read_tiles(const winograd *g, const real *x, ptrdiff_t first, ptrdiff_t count, real *v,
                       const real *zero) {
    ptrdiff_t c = g->c, point = point_size(c), pitch = cn_round_up(c, VL);
    for (ptrdiff_t t = 0; t < count; t++) {
        place at = place_of(g, first + t);
        const real *pixel[6][6];
        for (ptrdiff_t i = 0; i < 6; i++)
            for (ptrdiff_t j = 0; j < 6; j++) {
                ptrdiff_t row = at.row - g->top + i, column = at.column - g->left + j;
                int inside = row >= 0 && row < g->h && column >= 0 && column < g->w;
                pixel[i][j] = inside ? x + ((at.image * g->h + row) * g->w + column) * c : zero;
            }
        for (ptrdiff_t l = 0; l < c; l += VL) {
            vec in[6][6], out[6][6];
#pragma GCC unroll 36
            for (int i = 0; i < WINOGRAD_POINTS; i++)
                in[i / 6][i % 6] = v_load_n(pixel[i / 6][i % 6] + l, c - l);
            transform_input(in, out);
#pragma GCC unroll 36
            for (int i = 0; i < WINOGRAD_POINTS; i++)
                v_store(v + i * point + t * pitch + l, out[i / 6][i % 6]);
        }
    }
}

/* y of the tiles from m[point][tile][column], for `width` columns. */
static void write_tiles(const winograd *g, const real *m, ptrdiff_t first, ptrdiff_t count,
                        ptrdiff_t width, const real *bias, int relu, real *y) {
    ptrdiff_t point = point_size(GEMM_NR);
    for (ptrdiff_t t = 0; t < count; t++) {
        place at = place_of(g, first + t);
        ptrdiff_t rows = cn_min(WINOGRAD_TILE, g->p - at.row);
        ptrdiff_t columns = cn_min(WINOGRAD_TILE, g->q - at.column);
        real *corner = y + ((at.image * g->p + at.row) * g->q + at.column) * g->k;
        for (ptrdiff_t j = 0; j < width; j += VL) {
            vec in[6][6], out[4][4];
            vec add = bias ? v_load_n(bias + j, width - j) : (vec){0};
#pragma GCC unroll 36
            for (int i = 0; i < WINOGRAD_POINTS; i++)
                in[i / 6][i % 6] = v_load(m + i * point + t * GEMM_NR + j);
            transform_output(in, out);
            for (ptrdiff_t a = 0; a < rows; a++)
                for (ptrdiff_t b = 0; b < columns; b++) {
                    vec value = out[a][b] + add;
                    if (relu) value = v_select(value <= 0, (vec){0}, value);
                    v_store_n(corner + (a * g->q + b) * g->k + j, value, width - j);
                }
        }
    }
}

ptrdiff_t CN(winograd_scratch)(const winograd *g) {
    return WINOGRAD_POINTS * (point_size(g->c) + point_size(GEMM_NR)) + cn_round_up(g->c, VL);
}

/* Not more than BLOCK tiles a chunk, and some chunks even of few tiles. */
ptrdiff_t CN(winograd_chunks)(const winograd *g) {
    ptrdiff_t tiles = tiles_of(g);
    return cn_max(cn_ceil_div(tiles, BLOCK), cn_min(8, cn_ceil_div(tiles, 16)));
}

void CN(winograd_run)(const winograd *g, const real *x, const real *u, const real *bias, int relu,
                      real *y, ptrdiff_t chunk, real *scratch) {
    ptrdiff_t tiles = tiles_of(g), chunks = CN(winograd_chunks)(g);
    ptrdiff_t first = cn_part(tiles, chunks, chunk);
    ptrdiff_t count = cn_part(tiles, chunks, chunk + 1) - first;
    ptrdiff_t in_point = point_size(g->c), out_point = point_size(GEMM_NR);
    ptrdiff_t filter = gemm_packed_size(g->c, g->k);
    real *v = scratch, *m = v + WINOGRAD_POINTS * in_point, *zero = m + WINOGRAD_POINTS * out_point;
    memset(zero, 0, (size_t)g->c * sizeof(real));
    read_tiles(g, x, first, count, v, zero);
    for (ptrdiff_t panel = 0; panel < gemm_panels(g->k); panel++) {
        ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->k, panel);
        for (int i = 0; i < WINOGRAD_POINTS; i++) {
            gemm_rows rows = {v + i * in_point, cn_round_up(g->c, VL), 0, 1, g->c, 1, 1, 0};
            CN(gemm)(&rows, count, u + i * filter + g->c * j, cn_round_up(width, VL),
                     m + i * out_point, GEMM_NR, (gemm_epilogue){NULL, 0, 0});
        }
        write_tiles(g, m, first, count, width, bias ? bias + j : NULL, relu, y + j);
    }
}

/* Gradient of the filters: du[part][point] is a (c, k) matrix in panels, the sum of v^T z over the
 * part's tiles, z = A dy A^T. A chunk makes one panel of one part. */

/* Parts of the tiles: some 16 chunks, each of two blocks at least, in 8 MiB. */
static ptrdiff_t weight_parts(const winograd *g) {
    ptrdiff_t room = (8 << 20) / (CN(winograd_filter_size)(g) * (ptrdiff_t)sizeof(real));
    ptrdiff_t most = cn_min(cn_ceil_div(16, gemm_panels(g->k)), tiles_of(g) / (2 * BLOCK));
    return cn_max(1, cn_min(room, most));
}

ptrdiff_t CN(winograd_weights_size)(const winograd *g) {
    return weight_parts(g) * CN(winograd_filter_size)(g);
}
ptrdiff_t CN(winograd_weights_scratch)(const winograd *g) { return CN(winograd_scratch)(g); }
ptrdiff_t CN(winograd_weights_chunks)(const winograd *g) {
    return weight_parts(g) * gemm_panels(g->k);
}

/* z[point][tile][column] of up to GEMM_NR columns of dy; outside the image dy is 0. */
static void read_gradients(const winograd *g, const real *dy, ptrdiff_t first, ptrdiff_t count,
                           ptrdiff_t width, real *z) {
    ptrdiff_t point = point_size(GEMM_NR), pitch = cn_round_up(width, VL);
    for (ptrdiff_t t = 0; t < count; t++) {
        place at = place_of(g, first + t);
        ptrdiff_t rows = cn_min(WINOGRAD_TILE, g->p - at.row);
        ptrdiff_t columns = cn_min(WINOGRAD_TILE, g->q - at.column);
        const real *corner = dy + ((at.image * g->p + at.row) * g->q + at.column) * g->k;
        for (ptrdiff_t j = 0; j < width; j += VL) {
            vec in[4][4], out[6][6];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                in[i / 4][i % 4] =
                    i / 4 < rows && i % 4 < columns
                        ? v_load_n(corner + (i / 4 * g->q + i % 4) * g->k + j, width - j)
                        : (vec){0};
            transform_gradient(in, out);
#pragma GCC unroll 36
            for (int i = 0; i < WINOGRAD_POINTS; i++)
                v_store(z + i * point + t * pitch + j, out[i / 6][i % 6]);
        }
    }
}

void CN(winograd_weights)(const winograd *g, const real *x, const real *dy, real *du,
                          ptrdiff_t chunk, real *scratch) {
    ptrdiff_t panels = gemm_panels(g->k), panel = chunk % panels, part = chunk / panels;
    ptrdiff_t parts = weight_parts(g), j = panel * GEMM_NR, width = gemm_panel_width(g->k, panel);
    ptrdiff_t end = cn_part(tiles_of(g), parts, part + 1), pitch = cn_round_up(width, VL);
    ptrdiff_t in_point = point_size(g->c), out_point = point_size(GEMM_NR);
    ptrdiff_t filter = gemm_packed_size(g->c, g->k), c_pitch = cn_round_up(g->c, VL);
    real *v = scratch, *z = v + WINOGRAD_POINTS * in_point, *zero = z + WINOGRAD_POINTS * out_point;
    memset(zero, 0, (size_t)g->c * sizeof(real));
    du += part * WINOGRAD_POINTS * filter + g->c * j;
    int accumulate = 0;
    for (ptrdiff_t first = cn_part(tiles_of(g), parts, part); first < end; first += BLOCK) {
        ptrdiff_t count = cn_min(BLOCK, end - first);
        read_tiles(g, x, first, count, v, zero);
        read_gradients(g, dy + j, first, count, width, z);
        for (int i = 0; i < WINOGRAD_POINTS; i++) {
            gemm_rows rows = {v + i * in_point, 1, 0, 1, count, c_pitch, 1, 0};
            CN(gemm)(&rows, g->c, z + i * out_point, pitch, du + i * filter, pitch,
                     (gemm_epilogue){NULL, 0, accumulate});
        }
        accumulate = 1;
    }
}

/* Rows of dw that one chunk makes. */
enum { COMBINE_ROWS = 8 };

ptrdiff_t CN(winograd_combine_chunks)(const winograd *g) { return cn_ceil_div(g->c, COMBINE_ROWS); }

void CN(winograd_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk) {
    ptrdiff_t filter = gemm_packed_size(g->c, g->k), parts = weight_parts(g);
    for (ptrdiff_t l = chunk * COMBINE_ROWS; l < cn_min(g->c, (chunk + 1) * COMBINE_ROWS); l++)
        for (ptrdiff_t j = 0; j < g->k; j += VL) {
            ptrdiff_t panel = j / GEMM_NR, pitch = cn_round_up(gemm_panel_width(g->k, panel), VL);
            const real *from = du + g->c * panel * GEMM_NR + l * pitch + j % GEMM_NR;
            vec in[6][6], out[3][3];
            for (int i = 0; i < WINOGRAD_POINTS; i++) {
                vec sum = v_load(from + i * filter);
                for (ptrdiff_t part = 1; part < parts; part++)
                    sum += v_load(from + (part * WINOGRAD_POINTS + i) * filter);
                in[i / 6][i % 6] = sum;
            }
            transform_sums(in, out);
            for (int i = 0; i < 9; i++)
                v_store_n(dw + (i * g->c + l) * g->k + j, out[i / 3][i % 3], g->k - j);
        }
}
