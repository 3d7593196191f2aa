#include "winograd.h"

#include "winograd_rows.h"
#include "winograd_transform.h"

/* The largest tile. */
enum { SIDE = 8 };

/* Columns and then rows: element (i, j) is fetched as it is needed, by the expression `fetch`, and
 * `value` (i, j) of the result put by the statement `put`. All constants, so that loops unroll. */
#define TRANSFORM(kind, size, count, fetch, put)                                                   \
    do {                                                                                           \
        const int before_ = kind == FILTER || kind == GRADIENT ? (count) : (size);                 \
        const int after_ = kind == OUTPUT || kind == FILTER_SUMS ? (count) : (size);               \
        vec half_[SIDE][SIDE], in_[SIDE], out_[SIDE];                                              \
        _Pragma("GCC unroll 8") for (int j = 0; j < before_; j++) {                                \
            _Pragma("GCC unroll 8") for (int i = 0; i < before_; i++) in_[i] = fetch;              \
            one_way(kind, size, count, in_, half_[j]);                                             \
        }                                                                                          \
        _Pragma("GCC unroll 8") for (int i = 0; i < after_; i++) {                                 \
            _Pragma("GCC unroll 8") for (int j = 0; j < before_; j++) in_[j] = half_[j][i];        \
            one_way(kind, size, count, in_, out_);                                                 \
            _Pragma("GCC unroll 8") for (int j = 0; j < after_; j++) {                             \
                vec value = out_[j];                                                               \
                put;                                                                               \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* For `put`: stores the value at its point, from `to` on, with `point` from one to the next. Row
 * after row, by a pointer that is not known ahead: of dozens of addresses the compiler would make
 * each beforehand, in memory, for want of registers. */
#define AT_POINT(store)                                                                            \
    if (i && !j) {                                                                                 \
        to += size * point;                                                                        \
        __asm__("" : "+r"(to));                                                                    \
    }                                                                                              \
    store(to + j * point, value)

/* `call` of a tile's outputs and a filter's side, as constants: each transform is compiled for
 * every pair. */
#define OF_FORM(g, call)                                                                           \
    do {                                                                                           \
        if ((g)->m == 4 && (g)->r == 3)                                                            \
            call(4, 3);                                                                            \
        else if ((g)->r == 3)                                                                      \
            call(2, 3);                                                                            \
        else if ((g)->m == 4)                                                                      \
            call(4, 5);                                                                            \
        else                                                                                       \
            call(2, 5);                                                                            \
    } while (0)

/* 7x7 filters have functions of their own. */
static int by_rows(const winograd *g) { return g->r == 7; }

static ptrdiff_t points(const winograd *g) { return (g->m + g->r - 1) * (g->m + g->r - 1); }

/* Filters: u[point] is a (c, k) matrix in panels. Its size is a little more than that: powers of
 * two between points would fall into the same few sets of the caches. */
static ptrdiff_t matrix_size(const winograd *g) {
    return gemm_packed_size(g->c, g->k) + 64 / (ptrdiff_t)sizeof(real);
}

static ptrdiff_t filter_size(const winograd *g) {
    if (by_rows(g)) return CN(winograd_rows_filter_size)(g);
    return points(g) * matrix_size(g);
}

/* Filters that fill a good part of any cache go past it when they are made, where a vector is a
 * line. They are gone through one strip of panels a chunk, and the input is transformed anew for
 * each: otherwise each block of tiles would fetch all of them. */
static ptrdiff_t filter_bytes(const winograd *g) {
    return points(g) * gemm_packed_size(g->c, g->k) * (ptrdiff_t)sizeof(real);
}
static int large_filters(const winograd *g) { return filter_bytes(g) > PAST_CACHES; }
/* Columns of the filters that one chunk takes. */
static ptrdiff_t columns_at_once(const winograd *g) {
    return large_filters(g) ? GEMM_STRIP : cn_round_up(g->k, GEMM_STRIP);
}
static ptrdiff_t column_groups(const winograd *g) { return cn_ceil_div(g->k, columns_at_once(g)); }

/* Rows of c that a chunk transforms, of one panel. */
enum { FILTER_ROWS = 2 * VL };

static ptrdiff_t filter_chunks(const winograd *g) {
    if (by_rows(g)) return CN(winograd_rows_filter_chunks)(g);
    return gemm_panels(g->k) * cn_ceil_div(g->c, FILTER_ROWS);
}

/* The taps of VL rows from c0 and of up to VL columns from k0: tap[r][s][row]. */
CN_INLINE void read_taps(const int r, const winograd *g, const real *w, int turned, ptrdiff_t c0,
                         ptrdiff_t k0, vec tap[5][5][VL]) {
    for (int i = 0; i < r; i++)
        for (int j = 0; j < r; j++)
            if (turned) {
                const real *from = w + ((r - 1 - i) * r + r - 1 - j) * g->k * g->c + k0 * g->c + c0;
                for (int row = 0; row < VL; row++)
                    tap[i][j][row] =
                        k0 + row < g->k ? v_load_n(from + row * g->c, g->c - c0) : (vec){0};
                v_transpose(tap[i][j]);
            } else {
                const real *from = w + (i * r + j) * g->c * g->k + c0 * g->k + k0;
                for (int row = 0; row < VL; row++)
                    tap[i][j][row] =
                        c0 + row < g->c ? v_load_n(from + row * g->k, g->k - k0) : (vec){0};
            }
}

CN_INLINE void filter_of(const int m, const int r, const winograd *g, const real *w, int turned,
                         real *u, ptrdiff_t chunk) {
    const int size = m + r - 1;
    ptrdiff_t panels = gemm_panels(g->k), panel = chunk % panels;
    ptrdiff_t first = chunk / panels * FILTER_ROWS, end = cn_min(g->c, first + FILTER_ROWS);
    ptrdiff_t width = gemm_panel_width(g->k, panel), point = matrix_size(g);
    int past = WHOLE_LINES && large_filters(g) && v_can_stream(u);
    vec tap[5][5][VL];
    for (ptrdiff_t c0 = first; c0 < end; c0 += VL)
        for (ptrdiff_t k0 = panel * GEMM_NR; k0 < panel * GEMM_NR + width; k0 += VL) {
            read_taps(r, g, w, turned, c0, k0, tap);
            for (ptrdiff_t row = 0; row < cn_min(VL, end - c0); row++) {
                real *to = u + gemm_packed_place(g->c, g->k, c0 + row, k0);
                if (past)
                    TRANSFORM(FILTER, size, r, tap[i][j][row], AT_POINT(v_stream));
                else
                    TRANSFORM(FILTER, size, r, tap[i][j][row], AT_POINT(v_store));
            }
        }
}

void CN(winograd_filter)(const winograd *g, const real *w, int turned, real *u, ptrdiff_t chunk) {
    if (by_rows(g)) {
        CN(winograd_rows_filter)(g, w, turned, u, chunk);
        return;
    }
#define CALL(m, r) filter_of(m, r, g, w, turned, u, chunk)
    OF_FORM(g, CALL);
#undef CALL
}

/* Where they stay near a thread, it makes all of them for itself: half of them, fetched from where
 * another has just made them, would take it longer. */
enum { OWN_BYTES = 640 << 10, MARK = 64 / (int)sizeof(real) };
static int own_filters(const winograd *g) { return !by_rows(g) && filter_bytes(g) <= OWN_BYTES; }

ptrdiff_t CN(winograd_filter_size)(const winograd *g) {
    return own_filters(g) ? 0 : filter_size(g);
}
ptrdiff_t CN(winograd_filter_chunks)(const winograd *g) {
    return own_filters(g) ? 0 : filter_chunks(g);
}
ptrdiff_t CN(winograd_own_size)(const winograd *g) {
    return own_filters(g) ? MARK + cn_round_up(filter_size(g), MARK) : 0;
}

/* The filters that a thread has made for itself behind a mark that it has. */
static const real *own_filter(const winograd *g, const real *w, int turned, real *own) {
    int64_t *made = (int64_t *)own;
    real *u = own + MARK;
    if (!*made)
        for (ptrdiff_t chunk = 0; chunk < filter_chunks(g); chunk++)
            CN(winograd_filter)(g, w, turned, u, chunk);
    *made = 1;
    return u;
}

/* Tiles, counted over rows, columns and images. */

static ptrdiff_t tiles_down(const winograd *g) { return cn_ceil_div(g->p, g->m); }
static ptrdiff_t tiles_across(const winograd *g) { return cn_ceil_div(g->q, g->m); }
static ptrdiff_t tiles_of(const winograd *g) { return g->n * tiles_down(g) * tiles_across(g); }

typedef struct {
    ptrdiff_t image, row, column; /* of its first output */
} place;

static place place_of(const winograd *g, ptrdiff_t tile) {
    ptrdiff_t across = tiles_across(g), down = tiles_down(g);
    return (place){tile / across / down, tile / across % down * g->m, tile % across * g->m};
}
static place place_after(const winograd *g, place at) {
    if ((at.column += g->m) < g->q) return at;
    if ((at.row += g->m) < g->p) return (place){at.image, at.row, 0};
    return (place){at.image + 1, 0, 0};
}

/* The rows of images, each h rows of `line` reals, from those that tile `first` begins with to
 * those that tile `end` does, `above` rows higher. */
CN_INLINE span rows_between(const winograd *g, const real *images, ptrdiff_t h, ptrdiff_t line,
                            ptrdiff_t above, ptrdiff_t first, ptrdiff_t end) {
    place a = place_of(g, first), b = place_of(g, end);
    ptrdiff_t from = a.image * h + cn_max(0, a.row - above);
    ptrdiff_t to = b.image * h + cn_max(0, b.row - above);
    return (span){images + from * line, (to - from) * line};
}
CN_INLINE span inputs(const winograd *g, const real *x, ptrdiff_t first, ptrdiff_t end) {
    return rows_between(g, x, g->h, g->w * g->c, g->top, first, end);
}
CN_INLINE span outputs(const winograd *g, const real *y, ptrdiff_t first, ptrdiff_t end) {
    return rows_between(g, y, g->p, g->q * g->k, 0, first, end);
}

/* Tiles of one block at most: their transforms stay near. */
enum { BLOCK = 48 };

/* From tile to tile, and from point to point. A little more than the channels need: powers of two
 * would fall into the same few sets of the cache. */
static ptrdiff_t tile_pitch(ptrdiff_t channels) {
    return cn_round_up(channels, VL) + (channels >= 128 ? VL : 0);
}
static ptrdiff_t point_size(ptrdiff_t pitch) {
    return BLOCK * pitch + 64 / (ptrdiff_t)sizeof(real);
}

/* The addresses of the pixels under a tile, SIDE for each row; that of `zero` for those outside the
 * image. Compilers take vectors that are wider than the processor's apart into single lanes. */
enum { ADDRESSES = CN_VECTOR_BYTES / (int)sizeof(intptr_t) };
typedef intptr_t addresses
    __attribute__((vector_size(CN_VECTOR_BYTES), aligned(sizeof(intptr_t)), may_alias));
CN_INLINE void tile_pixels(const int size, const winograd *g, const real *x, place at,
                           const real *zero, const real **pixel) {
    static const intptr_t columns[SIDE] = {0, 1, 2, 3, 4, 5, 6, 7};
    ptrdiff_t row = at.row - g->top, column = at.column - g->left, line = g->w * g->c;
    const intptr_t bytes = sizeof(real);
    intptr_t corner = (intptr_t)x + ((at.image * g->h + row) * line + column * g->c) * bytes;
#pragma GCC unroll 4
    for (int j = 0; j < size; j += ADDRESSES) {
        addresses lanes = *(const addresses *)(columns + j), here = corner + lanes * (g->c * bytes);
        addresses outside = (lanes < -column) | (lanes >= g->w - column);
        for (int i = 0; i < size; i++, here += line * bytes) {
            addresses none = outside | -(intptr_t)(row + i < 0 || row + i >= g->h);
            *(addresses *)(pixel + i * SIDE + j) = (here & ~none) | ((intptr_t)zero & none);
        }
    }
}

/* Asks for a line of each pixel that is not under the tile on the left, too. */
enum { LINE = 64 / (int)sizeof(real) };
CN_INLINE void ask_for_pixels(const int size, const int r, const real *const *pixel, ptrdiff_t l) {
    for (int i = 0; i < size; i++)
#pragma GCC unroll 8
        for (int j = r - 1; j < size; j++) __builtin_prefetch(pixel[i * SIDE + j] + l);
}

/* v[point][tile][channel] of `count` tiles from the first: B^T x B. `zero` holds channels zeros. */
CN_INLINE void read_tiles_of(const int m, const int r, const winograd *g, const real *x,
                             ptrdiff_t first, ptrdiff_t count, real *v, const real *zero) {
    const int size = m + r - 1;
    ptrdiff_t c = g->c, pitch = tile_pitch(c), point = point_size(pitch);
    const real *pixels[2][SIDE * SIDE];
    place at = place_of(g, first);
    tile_pixels(size, g, x, at, zero, pixels[0]);
    for (ptrdiff_t t = 0; t < count; t++, v += pitch) {
        int more = t + 1 < count;
        const real **pixel = pixels[t % 2], **next = pixels[(t + more) % 2];
        if (more) tile_pixels(size, g, x, at = place_after(g, at), zero, next);
        ptrdiff_t l = 0;
        for (; l + VL <= c; l += VL) {
            if (l % LINE == 0)
                ask_for_pixels(size, r, l + LINE < c ? pixel : next, l + LINE < c ? l + LINE : 0);
            real *to = v + l;
            /* Read where they stand: kept, all addresses would only be copied to memory. */
            const real **from = pixel;
            __asm__("" : "+r"(from));
            TRANSFORM(INPUT, size, 0, v_load(from[i * SIDE + j] + l), AT_POINT(v_store));
        }
        if (l < c) {
            if (l % LINE == 0) ask_for_pixels(size, r, next, 0);
            real *to = v + l;
            TRANSFORM(INPUT, size, 0, v_load_n(pixel[i * SIDE + j] + l, c - l), AT_POINT(v_store));
        }
    }
}

static void read_tiles(const winograd *g, const real *x, ptrdiff_t first, ptrdiff_t count, real *v,
                       const real *zero) {
#define CALL(m, r) read_tiles_of(m, r, g, x, first, count, v, zero)
    OF_FORM(g, CALL);
#undef CALL
}

/* The first output of a tile. */
CN_INLINE ptrdiff_t output_of(const winograd *g, place at) {
    return ((at.image * g->p + at.row) * g->q + at.column) * g->k;
}

/* Whether a tile lies inside the image. */
CN_INLINE int is_whole(const winograd *g, place at) {
    return at.row + g->m <= g->p && at.column + g->m <= g->q;
}

/* Sums of a panel's columns, of differences from `shift` and of their squares, over `rows` pixels.
 */
typedef struct {
    real shift[GEMM_NR];
    double sum[GEMM_NR], square[GEMM_NR], rows;
} column_sums;

/* `width` columns of y, from column0 on, of the tiles from p[point][tile][column]; their moments
 * into the part that epilogue.moments is. */
CN_INLINE void write_tiles_of(const int m, const int r, const winograd *g, const real *p,
                              ptrdiff_t first, ptrdiff_t count, ptrdiff_t column0, ptrdiff_t width,
                              winograd_epilogue epilogue, real *y, int past) {
    const int size = m + r - 1;
    const ptrdiff_t point = point_size(GEMM_NR);
    ptrdiff_t pitch = cn_round_up(width, VL);
    place at = place_of(g, first);
    column_sums sums;
    if (epilogue.moments) memset(&sums, 0, sizeof sums);
    ptrdiff_t pixels = 0;
    for (ptrdiff_t t = 0; t < count; t++, at = place_after(g, at), p += pitch) {
        ptrdiff_t rows = cn_min(m, g->p - at.row), columns = cn_min(m, g->q - at.column);
        ptrdiff_t line = g->q * g->k, pixel = g->k;
        int whole = is_whole(g, at);
        real *corner = y + output_of(g, at) + column0;
        for (ptrdiff_t k = 0; k < width; k += VL) {
            const real *from = p + k;
            real *to = corner + k;
            vec bias = epilogue.bias ? v_load_n(epilogue.bias + column0 + k, width - k) : (vec){0};
            vec out[4][4];
            TRANSFORM(OUTPUT, size, m, v_load(from + (i * size + j) * point),
                      out[i][j] = value + bias);
#define EACH_OUTPUT(what)                                                                          \
    do {                                                                                           \
        _Pragma("GCC unroll 4") for (int i = 0; i < m; i++) {                                      \
            _Pragma("GCC unroll 4") for (int j = 0; j < m; j++) { what; }                          \
        }                                                                                          \
    } while (0)
            if (epilogue.relu) EACH_OUTPUT(out[i][j] = v_relu(out[i][j]));
            if (epilogue.moments) {
                if (t == 0) v_store(sums.shift + k, out[0][0]);
                vec shift = v_load(sums.shift + k), sum[4] = {{0}}, square[4] = {{0}};
                /* What lies outside the image differs by nothing. */
                if (!whole) EACH_OUTPUT(if (i >= rows || j >= columns) out[i][j] = shift);
                EACH_OUTPUT(sum[j] += out[i][j] - shift);
                EACH_OUTPUT(square[j] += (out[i][j] - shift) * (out[i][j] - shift));
                v_add_double(sums.sum + k, (sum[0] + sum[1]) + (sum[2] + sum[3]), VL);
                v_add_double(sums.square + k, (square[0] + square[1]) + (square[2] + square[3]),
                             VL);
            }
            if (!whole || width - k < VL)
                EACH_OUTPUT(if (i < rows && j < columns)
                                v_put(to + i * line + j * pixel, out[i][j], width - k, past));
            else if (past)
                EACH_OUTPUT(v_stream(to + i * line + j * pixel, out[i][j]));
            else
                EACH_OUTPUT(v_store(to + i * line + j * pixel, out[i][j]));
#undef EACH_OUTPUT
        }
        pixels += rows * columns;
    }
    if (!epilogue.moments) return;
    for (ptrdiff_t j = 0; j < width; j++)
        put_moments(epilogue.moments, g->k, column0 + j, (double)sums.shift[j], sums.sum[j],
                    sums.square[j], (double)pixels);
}

static void write_tiles(const winograd *g, const real *p, ptrdiff_t first, ptrdiff_t count,
                        ptrdiff_t column0, ptrdiff_t width, winograd_epilogue epilogue, real *y,
                        int past) {
#define CALL(m, r) write_tiles_of(m, r, g, p, first, count, column0, width, epilogue, y, past)
    OF_FORM(g, CALL);
#undef CALL
}

ptrdiff_t CN(winograd_scratch)(const winograd *g) {
    if (by_rows(g)) return CN(winograd_rows_scratch)(g);
    ptrdiff_t panels = cn_min(gemm_panels(g->k), GEMM_TOGETHER);
    return points(g) * (point_size(tile_pitch(g->c)) + panels * point_size(GEMM_NR)) +
           cn_round_up(g->c, VL);
}

/* Not more than BLOCK tiles, fewer where their transforms would otherwise not stay near: 16
 * registers mean a smaller cache, too. And some chunks even of few tiles. */
static ptrdiff_t tile_blocks(const winograd *g) {
    ptrdiff_t tiles = tiles_of(g), at_once = BLOCK;
    if (!large_filters(g) && g->c >= 128)
        at_once = BLOCK / 2;
    else if (!large_filters(g) && g->c >= 64 && GEMM_NV == 2)
        at_once = BLOCK * 3 / 4;
    ptrdiff_t wanted = cn_min(cn_ceil_div(8, column_groups(g)), cn_ceil_div(tiles, 16));
    return cn_max(cn_ceil_div(tiles, at_once), wanted);
}

ptrdiff_t CN(winograd_parts)(const winograd *g) {
    return by_rows(g) ? CN(winograd_rows_chunks)(g) : tile_blocks(g);
}
ptrdiff_t CN(winograd_chunks)(const winograd *g) {
    return by_rows(g) ? CN(winograd_rows_chunks)(g) : tile_blocks(g) * column_groups(g);
}

void CN(winograd_run)(const winograd *g, const real *x, winograd_filters filters,
                      winograd_epilogue epilogue, real *y, ptrdiff_t chunk, real *scratch) {
    const real *u = filters.u;
    if (by_rows(g)) {
        CN(winograd_rows_run)(g, x, u, epilogue, y, chunk, scratch);
        return;
    }
    if (own_filters(g)) u = own_filter(g, filters.w, filters.turned, filters.own);
    ptrdiff_t count_points = points(g);
    ptrdiff_t tiles = tiles_of(g), blocks = tile_blocks(g), block = chunk % blocks;
    ptrdiff_t first = cn_part(tiles, blocks, block);
    ptrdiff_t count = cn_part(tiles, blocks, block + 1) - first;
    ptrdiff_t from = chunk / blocks * columns_at_once(g);
    ptrdiff_t to = cn_min(g->k, from + columns_at_once(g));
    ptrdiff_t pitch = tile_pitch(g->c), in_point = point_size(pitch);
    ptrdiff_t out_point = point_size(GEMM_NR), out_panel = count_points * out_point;
    ptrdiff_t panels = cn_min(gemm_panels(g->k), GEMM_TOGETHER), matrix = matrix_size(g);
    real *v = scratch, *products = v + count_points * in_point;
    real *zero = products + panels * out_panel;
    if (epilogue.moments) epilogue.moments += block * moments_size(g->k);
    memset(zero, 0, (size_t)g->c * sizeof(real));
    read_tiles(g, x, first, count, v, zero);
    int past = WHOLE_LINES && g->k % VL == 0 && large_result(y, g->n * g->p * g->q * g->k);
    /* What is read next and where this is written come from far away while it multiplies. So do
     * filters that are too many for the second cache; not with 32 registers, where the next panel
     * would be asked for into the first, which does not hold two such wide ones. */
    int asks = GEMM_NV == 2 && filter_bytes(g) > 256 << 10;
    span next = inputs(g, x, first + count, cn_min(first + 2 * count, tiles));
    span here = outputs(g, y, first, first + count);
    for (ptrdiff_t strip = from; strip < to; strip += GEMM_STRIP) {
        ptrdiff_t end = cn_min(to, strip + GEMM_STRIP);
        for (ptrdiff_t i = 0; i < count_points; i++) {
            if (strip == from) {
                ask_for(next, count_points, i);
                if (to - from == g->k && !past) ask_for(here, count_points, i);
            }
            gemm_rows rows = {.x = v + i * in_point,
                              .ld = pitch,
                              .runs = 1,
                              .run_length = g->c,
                              .step = 1,
                              .groups = 1};
            const real *filters = u + i * matrix;
            real *p = products + i * out_point;
            for (ptrdiff_t j = strip; j < end; j += GEMM_NR, p += out_panel) {
                ptrdiff_t width = cn_round_up(cn_min(GEMM_NR, end - j), VL);
                gemm_panel panel = gemm_packed(filters + g->c * j, width);
                if (asks && j + GEMM_NR < end)
                    panel.next = panel.data + g->c * GEMM_NR;
                else if (asks && i + 1 < count_points)
                    panel.next = filters + matrix + g->c * strip;
                CN(gemm)(&rows, count, panel, width, p, width, (gemm_epilogue){NULL, 0, 0});
            }
        }
        const real *p = products;
        for (ptrdiff_t j = strip; j < end; j += GEMM_NR, p += out_panel)
            write_tiles(g, p, first, count, j, cn_min(GEMM_NR, end - j), epilogue, y, past);
    }
}

/* Gradient of the filters: du[part][point] is a (c, k) matrix in panels, the sum of v^T z over the
 * part's tiles, z = A dy A^T. A chunk makes one strip of panels of one part. */

/* Parts of the tiles: some 16 chunks, each of two blocks at least, in 8 MiB. */
static ptrdiff_t weight_parts(const winograd *g) {
    ptrdiff_t room = (8 << 20) / filter_bytes(g);
    ptrdiff_t most = cn_min(cn_ceil_div(16, gemm_strips(g->k)), tiles_of(g) / (2 * BLOCK));
    return cn_max(1, cn_min(room, most));
}

ptrdiff_t CN(winograd_weights_size)(const winograd *g) {
    if (by_rows(g)) return CN(winograd_rows_weights_size)(g);
    return weight_parts(g) * filter_size(g);
}
ptrdiff_t CN(winograd_weights_chunks)(const winograd *g) {
    if (by_rows(g)) return CN(winograd_rows_weights_chunks)(g);
    return weight_parts(g) * gemm_strips(g->k);
}

/* z[point][tile][column] of up to GEMM_NR columns of dy; outside the image dy is 0. */
CN_INLINE void read_gradients_of(const int m, const int r, const winograd *g, const real *dy,
                                 ptrdiff_t first, ptrdiff_t count, ptrdiff_t width, real *z) {
    const int size = m + r - 1;
    const ptrdiff_t point = point_size(GEMM_NR);
    ptrdiff_t pitch = cn_round_up(width, VL);
    place at = place_of(g, first);
    for (ptrdiff_t t = 0; t < count; t++, z += pitch) {
        ptrdiff_t rows = cn_min(m, g->p - at.row), columns = cn_min(m, g->q - at.column);
        int whole = is_whole(g, at);
        const real *corner = dy + output_of(g, at);
        if (t + 1 < count) at = place_after(g, at);
        const real *next = dy + output_of(g, at);
        for (ptrdiff_t k = 0; k < width; k += VL) {
            const real *from = corner + k, *ahead = k + VL < width ? from + VL : next;
            real *to = z + k;
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < columns; j++) __builtin_prefetch(ahead + (i * g->q + j) * g->k);
            if (whole && width - k >= VL)
                TRANSFORM(GRADIENT, size, m, v_load(from + (i * g->q + j) * g->k),
                          v_store(to + (i * size + j) * point, value));
            else
                TRANSFORM(GRADIENT, size, m,
                          i < rows && j < columns
                              ? v_load_n(from + (i * g->q + j) * g->k, width - k)
                              : (vec){0},
                          v_store(to + (i * size + j) * point, value));
        }
    }
}

static void read_gradients(const winograd *g, const real *dy, ptrdiff_t first, ptrdiff_t count,
                           ptrdiff_t width, real *z) {
#define CALL(m, r) read_gradients_of(m, r, g, dy, first, count, width, z)
    OF_FORM(g, CALL);
#undef CALL
}

void CN(winograd_weights)(const winograd *g, const real *x, const real *dy, real *du,
                          ptrdiff_t chunk, real *scratch) {
    if (by_rows(g)) {
        CN(winograd_rows_weights)(g, x, dy, du, chunk, scratch);
        return;
    }
    ptrdiff_t count_points = points(g);
    ptrdiff_t strips = gemm_strips(g->k), part = chunk / strips;
    ptrdiff_t from = chunk % strips * GEMM_STRIP, to = cn_min(g->k, from + GEMM_STRIP);
    ptrdiff_t parts = weight_parts(g), end = cn_part(tiles_of(g), parts, part + 1);
    ptrdiff_t c_pitch = tile_pitch(g->c), matrix = matrix_size(g);
    ptrdiff_t in_point = point_size(c_pitch), out_point = point_size(GEMM_NR);
    ptrdiff_t out_panel = count_points * out_point;
    real *v = scratch, *gradients = v + count_points * in_point;
    real *zero = gradients + gemm_panels(to - from) * out_panel;
    memset(zero, 0, (size_t)g->c * sizeof(real));
    du += part * count_points * matrix;
    int accumulate = 0;
    for (ptrdiff_t first = cn_part(tiles_of(g), parts, part); first < end; first += BLOCK) {
        ptrdiff_t count = cn_min(BLOCK, end - first);
        read_tiles(g, x, first, count, v, zero);
        real *z = gradients;
        for (ptrdiff_t j = from; j < to; j += GEMM_NR, z += out_panel)
            read_gradients(g, dy + j, first, count, cn_min(GEMM_NR, to - j), z);
        ptrdiff_t next = cn_min(first + 2 * BLOCK, end);
        span next_x = inputs(g, x, first + count, next);
        span next_dy = outputs(g, dy, first + count, next);
        for (ptrdiff_t i = 0; i < count_points; i++) {
            ask_for(next_x, count_points, i);
            /* All of dy, where that is not asked for once for each of many strips. */
            if (strips <= 2) ask_for(next_dy, count_points, i);
            gemm_rows rows = {.x = v + i * in_point,
                              .ld = 1,
                              .runs = 1,
                              .run_length = count,
                              .step = c_pitch,
                              .groups = 1};
            z = gradients + i * out_point;
            for (ptrdiff_t j = from; j < to; j += GEMM_NR, z += out_panel) {
                ptrdiff_t pitch = cn_round_up(cn_min(GEMM_NR, to - j), VL);
                CN(gemm)(&rows, g->c, gemm_packed(z, pitch), pitch, du + i * matrix + g->c * j,
                         pitch, (gemm_epilogue){NULL, 0, accumulate});
            }
        }
        accumulate = 1;
    }
}

/* Rows of dw that one chunk makes. */
enum { COMBINE_ROWS = 8 };

ptrdiff_t CN(winograd_combine_chunks)(const winograd *g) {
    return by_rows(g) ? CN(winograd_rows_combine_chunks)(g) : cn_ceil_div(g->c, COMBINE_ROWS);
}

CN_INLINE vec sum_of_parts(const real *from, ptrdiff_t parts, ptrdiff_t size) {
    vec sum = v_load(from);
    for (ptrdiff_t part = 1; part < parts; part++) sum += v_load(from + part * size);
    return sum;
}

CN_INLINE void combine_of(const int m, const int r, const winograd *g, const real *du, real *dw,
                          ptrdiff_t chunk) {
    const int size = m + r - 1;
    ptrdiff_t matrix = matrix_size(g), parts = weight_parts(g);
    for (ptrdiff_t l = chunk * COMBINE_ROWS; l < cn_min(g->c, (chunk + 1) * COMBINE_ROWS); l++)
        for (ptrdiff_t k = 0; k < g->k; k += VL) {
            const real *from = du + gemm_packed_place(g->c, g->k, l, k);
            real *to = dw + l * g->k + k;
            TRANSFORM(FILTER_SUMS, size, r,
                      sum_of_parts(from + (i * size + j) * matrix, parts, size * size * matrix),
                      v_store_n(to + (i * r + j) * g->c * g->k, value, g->k - k));
        }
}

void CN(winograd_combine)(const winograd *g, const real *du, real *dw, ptrdiff_t chunk) {
    if (by_rows(g)) {
        CN(winograd_rows_combine)(g, du, dw, chunk);
        return;
    }
#define CALL(m, r) combine_of(m, r, g, du, dw, chunk)
    OF_FORM(g, CALL);
#undef CALL
}
