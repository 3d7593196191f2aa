#include "conv_weights.h"

#include "gemm.h"
#include "reduce.h"

/* A product's rows are (s, c) of one filter row r, which lie side by side in x, and it sums over
 * pixels; where filters are many, the rows are the channels of one tap, copied. Turned, for few
 * filters, its rows are filters and its columns (s, c). */

/* Output rows at a time: near 512 pixels, 256 where there are many filters, and not more of x than
 * stays near, since every panel meets all of it. Of small images several are taken together, so
 * that the sums are not fetched and put back for a few pixels each. */
enum { NEAR_BYTES = 256 << 10, LEAST_PIXELS = 64 };
static ptrdiff_t pixels_at_once(const geometry *g) {
    ptrdiff_t near = NEAR_BYTES / (ptrdiff_t)sizeof(real) / (g->c * g->stride_h * g->stride_w);
    return cn_clamp(near, LEAST_PIXELS, g->k < 64 ? 512 : 256);
}
static ptrdiff_t weight_block(const geometry *g) {
    return cn_clamp(pixels_at_once(g) / g->q, 1, g->p);
}
static ptrdiff_t weight_columns(const geometry *g) {
    return piece_columns(g->p, g->q, pixels_at_once(g));
}
static ptrdiff_t weight_images(const geometry *g) {
    return weight_block(g) < g->p ? 1 : cn_max(1, 64 / (g->p * g->q));
}

/* dw is made in as many parts as are enough chunks, each of which makes all of it and reads dy and
 * x once, if they have room in so many bytes of float64. Of few pixels writing parts and adding
 * them up would take longer than they do. */
enum { MOST_BYTES = 16 << 20, PART_SUM = 256 };

typedef struct {
    ptrdiff_t filter_rows, weights; /* r s c rows of w; reals of a part: panels of w, or turned */
    ptrdiff_t parts;                /* of the reduction over the batch, at most */
    int copies; /* whether dw is made of planes; panels of dy then are where its parts would be */
    int turned; /* whether parts are (r, k, s c), of whole vectors */
} weights_layout;

/* Where filters are many for an image's pixels, a chunk of dw is a few channels of x, for all
 * pixels, taps and filters. It copies them to blocks (gemm.h): for each column of the filter the
 * pixels which that column meets, row by row, so that what a tap meets of an image is one run. Rows
 * that the filter moves along by several at once are as many planes, along which it moves by one.
 * Several small images go together; larger ones are not copied, nor would their dy be small. */
enum { FILTERS_A_PIXEL = 8, FEW_CHANNELS = 64, PIXELS = 256, MOST_TAPS = 256 };
static int copies_pay(const geometry *g) {
    ptrdiff_t pixels = g->p * g->q;
    return g->k >= FILTERS_A_PIXEL * pixels && g->c >= FEW_CHANNELS && g->r * g->s > 1 &&
           g->r * g->s <= MOST_TAPS && pixels <= PIXELS;
}

static ptrdiff_t channel_groups(const geometry *g) {
    ptrdiff_t blocks = cn_ceil_div(g->c, GEMM_BLOCK);
    return cn_ceil_div(blocks, cn_ceil_div(blocks, CN_ENOUGH_CHUNKS));
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

static ptrdiff_t turned_pitch(const geometry *g) { return cn_round_up(g->s * g->c, VL); }

/* Whether filters leave more of their last vector empty than their own rows do of theirs, which
 * take an eighth more time; or 1x1 filters meet pixels that share few sets of the caches, of which
 * other sums read a few channels at a time. */
static int turned_pays(const geometry *g) {
    ptrdiff_t row = g->s * g->c;
    int emptier = g->k * 8 * turned_pitch(g) <= row * 7 * cn_round_up(g->k, VL);
    int few_sets = GEMM_NV == 4 && g->r * g->s == 1 && g->c * (ptrdiff_t)sizeof(real) % 2048 == 0;
    return few_filters(g) || (g->k < 32 && row >= VL && emptier) || (g->k <= 64 && few_sets);
}

/* Parts that are enough chunks, of n examples: more where each makes little of dw. */
static ptrdiff_t parts_of(const geometry *g, ptrdiff_t n) {
    ptrdiff_t most = 64 / gemm_panels(g->k);
    return cn_max(cn_min(most, n * g->p * g->q / PART_SUM), CN_ENOUGH_CHUNKS);
}

static weights_layout layout_of(const geometry *g) {
    weights_layout o;
    o.filter_rows = g->r * g->s * g->c;
    o.turned = turned_pays(g);
    o.weights = o.turned ? g->r * g->k * turned_pitch(g) : gemm_packed_size(o.filter_rows, g->k);
    o.copies = copies_pay(g);
    ptrdiff_t parts = parts_of(g, g->n);
    o.parts = o.copies ? 1 : cn_min(parts, cn_max(1, MOST_BYTES / (o.weights * 8)));
    return o;
}

ptrdiff_t CN(conv_weights_size)(const geometry *g) {
    weights_layout o = layout_of(g);
    return o.copies ? gemm_packed_size(g->n * g->p * g->q, g->k) : o.parts * o.weights;
}

/* Where a strip of dy begins in the scratch, behind the patch of x; in bytes. */
static ptrdiff_t packed_offset(const geometry *g) {
    geometry first = piece_of_y(*g, 0, weight_columns(g));
    patch under = input_patch(&first, 0, weight_block(g));
    return cn_round_up(weight_images(g) * patch_bytes(under, g->c), 64);
}

ptrdiff_t CN(conv_weights_scratch)(const geometry *g) {
    ptrdiff_t bytes = (ptrdiff_t)sizeof(real);
    if (layout_of(g).copies) {
        ptrdiff_t pixels = pixels_before(g, images_together(g), g->s, 0);
        ptrdiff_t blocks = cn_ceil_div(cn_ceil_div(g->c, GEMM_BLOCK), channel_groups(g));
        return blocks * gemm_block_size(pixels) * bytes;
    }
    ptrdiff_t strip = cn_min(GEMM_STRIP, cn_round_up(g->k, VL));
    ptrdiff_t pixels = weight_images(g) * weight_block(g) * weight_columns(g);
    return packed_offset(g) + pixels * strip * bytes;
}

/* Parts that each image is cut into, of whole output rows or, of a single one, of columns: one, but
 * of a few large images some. */
enum { PART_PIXELS = 1024 };
static ptrdiff_t image_parts(const geometry *g, weights_layout o, ptrdiff_t n) {
    ptrdiff_t most = cn_clamp(g->p * g->q / PART_PIXELS, 1, g->p > 1 ? g->p : g->q);
    return cn_clamp(cn_min(CN_ENOUGH_CHUNKS, o.parts) / n, 1, most);
}

/* Parts of the sum over the batch: some images, or a part of one. */
static ptrdiff_t active_parts(const geometry *g, weights_layout o, ptrdiff_t n) {
    return cn_min(cn_min(o.parts, parts_of(g, n)), n * image_parts(g, o, n));
}

/* Groups of strips of dw, each with its chunks: few, since a chunk reads x once for all its strips,
 * but enough chunks. */
static ptrdiff_t strip_groups(const geometry *g, weights_layout o, ptrdiff_t n) {
    ptrdiff_t strips = o.turned ? 1 : gemm_strips(g->k);
    return cn_min(strips, cn_ceil_div(CN_ENOUGH_CHUNKS, active_parts(g, o, n)));
}

/* Groups of dw's rows, where there would be few chunks; each copies x and dy for itself. */
enum { LEAST_ROWS = 192 };
static ptrdiff_t row_groups(const geometry *g, weights_layout o, ptrdiff_t n) {
    ptrdiff_t chunks = active_parts(g, o, n) * strip_groups(g, o, n);
    int few = chunks < CN_ENOUGH_CHUNKS / 2 && !o.turned;
    ptrdiff_t most = cn_max(1, o.filter_rows / LEAST_ROWS);
    return few ? cn_min(cn_ceil_div(CN_ENOUGH_CHUNKS, chunks), most) : 1;
}

/* Group i of so many, of whole units. */
typedef struct {
    ptrdiff_t from, to;
} range;
static range group_of(ptrdiff_t total, ptrdiff_t unit, ptrdiff_t groups, ptrdiff_t i) {
    return (range){cn_part_of_units(total, unit, groups, i),
                   cn_part_of_units(total, unit, groups, i + 1)};
}

/* Whether dw is written as it is summed. Otherwise the sums of each panel lie together: two threads
 * that write beside each other would get in each other's way. */
static int sums_are_dw(const geometry *g, weights_layout o, ptrdiff_t n) {
    return o.copies || (active_parts(g, o, n) == 1 && gemm_panels(g->k) == 1 && !o.turned);
}

ptrdiff_t CN(conv_weights_pack_chunks)(const geometry *g) {
    return layout_of(g).copies ? gemm_strips(g->k) : 0;
}

void CN(conv_weights_pack)(const geometry *g, ptrdiff_t n, const real *dy, real *workspace,
                           ptrdiff_t chunk) {
    ptrdiff_t j = chunk * GEMM_STRIP, pixels = n * g->p * g->q;
    CN(gemm_pack)(workspace + pixels * j, dy + j, g->k, 1, pixels, cn_min(GEMM_STRIP, g->k - j));
}

ptrdiff_t CN(conv_weights_chunks)(const geometry *g, ptrdiff_t n) {
    weights_layout o = layout_of(g);
    if (o.copies) return channel_groups(g);
    return active_parts(g, o, n) * strip_groups(g, o, n) * row_groups(g, o, n);
}

/* What the filter's first row meets of some images, under `rows` rows of their outputs: the pixels
 * where they are, or a zero-bordered copy, or those that are not skipped, gathered. `line` is from
 * row to row of x, for filters of several rows. Turned sums read whole vectors, beyond the channels
 * where those fill none: of a copy then, behind which there is room for a strip of dy. */
static gemm_rows dw_pixels(const geometry *g, int turned, const real *image, ptrdiff_t images,
                           ptrdiff_t p0, ptrdiff_t rows, real *scratch, ptrdiff_t *line) {
    patch under = input_patch(g, p0, rows);
    view x = {scratch, under.columns * g->c};
    if (turned && turned_pitch(g) > g->s * g->c)
        copy_patch(scratch, image, g->h, g->w, g->c, under);
    else
        x = read_patch(scratch, image, g->h, g->w, g->c, under);
    ptrdiff_t example = g->h * g->w * g->c, next = example, met = rows * g->q;
    *line = x.pitch;
    if (x.data == scratch) {
        next = under.rows * x.pitch;
        for (ptrdiff_t i = 1; i < images; i++)
            copy_patch(scratch + i * next, image + i * example, g->h, g->w, g->c, under);
    } else if (skips(g) && g->c >= 64) { /* fewer channels do not pay for it, as measured */
        for (ptrdiff_t i = 0; i < images; i++)
            copy_met(scratch + i * met * g->c, (view){x.data + i * example, x.pitch}, g, rows);
        return (gemm_rows){.x = scratch,
                           .ld = 1,
                           .runs = 1,
                           .run_length = images * met,
                           .step = g->c,
                           .groups = 1};
    }
    ptrdiff_t down = g->stride_h * x.pitch, across = g->stride_w * g->c;
    return (gemm_rows){.x = x.data,
                       .ld = 1,
                       .run_stride = down,
                       .runs = rows,
                       .run_length = g->q,
                       .step = across,
                       .groups = images,
                       .group_stride = next};
}

/* Of some output rows those where a filter row meets the image, which meets input row `row` in the
 * first of them; the others would add zeros. */
typedef struct {
    ptrdiff_t first, count;
} inner_rows;
static inner_rows rows_inside(const geometry *g, ptrdiff_t row, ptrdiff_t rows) {
    ptrdiff_t first = cn_clamp(cn_ceil_div(-row, g->stride_h), 0, rows);
    return (inner_rows){first, cn_clamp(cn_ceil_div(g->h - row, g->stride_h), first, rows) - first};
}

/* A block of pixels: some output rows of one image, or small images. */
typedef struct {
    geometry g;      /* where the output is a single row, of a piece of it */
    ptrdiff_t p0;    /* first output row */
    gemm_rows x;     /* what it meets of x: the first tap of all pixels */
    ptrdiff_t line;  /* of x, from row to row */
    const real *dy;  /* of its pixels */
    ptrdiff_t count; /* pixels */
    ptrdiff_t more;  /* pixels of dy that follow */
    int follows;     /* whether a block like it follows in the same part */
} dw_block;

/* Where sums of dw go: to dw itself, or to panels of so many rows. */
typedef struct {
    real *data;
    ptrdiff_t rows, pitch; /* of dw, or 0: panels */
    int accumulate;
} dw_sums;

/* Sums over a block's pixels of some rows of dw and its columns from j on, one panel: a filter row
 * at a time, from row to row of x. */
static void dw_panel(const dw_block *b, gemm_panel panel, range weights, ptrdiff_t j,
                     ptrdiff_t width, const dw_sums *sums) {
    const geometry *g = &b->g;
    ptrdiff_t taps = g->s * g->c, pitch = sums->pitch ? sums->pitch : cn_round_up(width, VL);
    real *out = sums->data + (sums->pitch ? j : sums->rows * j);
    for (ptrdiff_t row = weights.from, next; row < weights.to; row = next) {
        ptrdiff_t r = row / taps;
        next = cn_min(weights.to, (r + 1) * taps);
        inner_rows met = rows_inside(g, b->p0 * g->stride_h - g->top + r, b->x.runs);
        gemm_rows inside = gemm_share_asking(b->x, next - row, j, g->k);
        gemm_panel under = panel;
        inside.x += r * b->line + row % taps + met.first * b->x.run_stride;
        inside.runs = met.count;
        inside.passed = (b->x.runs - met.count) * b->x.run_length;
        under.data += met.first * b->x.run_length * panel.pitch;
        if (panel.next) under.next += met.first * b->x.run_length * panel.next_pitch;
        CN(gemm)(&inside, next - row, under, width, out + row * pitch, pitch,
                 (gemm_epilogue){NULL, 0, sums->accumulate});
    }
}

/* The same of some columns: strip by strip, packed if need be. Of dy asks for what comes next, but
 * not for what another thread may have: a panel's columns in the next block; or where strips are
 * packed, the next strip, which otherwise is waited for. */
static void dw_strips(const dw_block *b, range columns, range weights, real *packed,
                      const dw_sums *sums) {
    ptrdiff_t k = b->g.k;
    for (ptrdiff_t j = columns.from; j < columns.to; j += GEMM_STRIP) {
        gemm_columns strip = CN(gemm_columns_of)(packed, b->dy + j, k, 1, b->count,
                                                 cn_min(GEMM_STRIP, columns.to - j),
                                                 weights.to - weights.from, b->more);
        int next_block = strip.pitch || j + GEMM_STRIP >= columns.to;
        const real *next = b->dy + (strip.pitch ? j : columns.from) + b->count * k;
        if (!next_block) next = b->dy + j + GEMM_STRIP;
        for (ptrdiff_t i = 0; i < strip.width; i += GEMM_NR) {
            gemm_panel panel = gemm_panel_at(&strip, i);
            if (b->follows || !next_block) gemm_ask_for(&panel, next + i, k);
            dw_panel(b, panel, weights, j + i, cn_min(GEMM_NR, strip.width - i), sums);
        }
    }
}

/* Adds what a block's pixels give to all of dw, turned. One product takes all rows, passing over
 * what lies between them, unless that is no whole number of steps from pixel to pixel. */
static void turned_dw(const dw_block *b, real *sums) {
    const geometry *g = &b->g;
    const gemm_rows *pixels = &b->x;
    const real *dy = b->dy;
    ptrdiff_t pitch = turned_pitch(g), across = pixels->step, row = pixels->run_length * g->k;
    ptrdiff_t between = pixels->run_stride - pixels->run_length * across;
    int together = between >= 0 && between % across == 0;
    for (ptrdiff_t image = 0; image < pixels->groups; image++, dy += pixels->runs * row)
        for (ptrdiff_t r = 0; r < g->r; r++) {
            inner_rows met = rows_inside(g, b->p0 * g->stride_h - g->top + r, pixels->runs);
            ptrdiff_t at_once = together ? met.count : 1;
            for (ptrdiff_t i = met.first; i < met.first + met.count; i += at_once) {
                const real *x = pixels->x + image * pixels->group_stride + r * b->line;
                gemm_rows gradients = {.x = dy + i * row,
                                       .ld = 1,
                                       .runs = 1,
                                       .run_length = pixels->run_length,
                                       .step = g->k,
                                       .groups = at_once,
                                       .group_stride = row,
                                       .passed = together ? between / across : 0};
                for (ptrdiff_t j = 0; j < pitch; j += GEMM_NR)
                    CN(gemm)(&gradients, g->k,
                             gemm_in_place(x + i * pixels->run_stride + j, across),
                             cn_min(GEMM_NR, pitch - j), sums + r * g->k * pitch + j, pitch,
                             (gemm_epilogue){NULL, 0, 1});
            }
        }
}

/* Zeros for some pixels outside the image. */
static void put_border(real *blocks, ptrdiff_t block, ptrdiff_t channels, ptrdiff_t pixels) {
    for (ptrdiff_t i = 0; i < channels; i += GEMM_BLOCK, blocks += block)
        memset(blocks, 0, (size_t)(pixels * GEMM_BLOCK) * sizeof(real));
}

/* Some channels of images, which begin at x, as planes. */
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
static void weights_of_copies(const geometry *g, ptrdiff_t n, const real *x, const real *panels,
                              real *dw, ptrdiff_t chunk, real *planes) {
    range group = group_of(g->c, GEMM_BLOCK, channel_groups(g), chunk);
    ptrdiff_t channel = group.from, channels = group.to - channel;
    ptrdiff_t pixels = g->p * g->q, together = images_together(g);
    gemm_columns dy = {panels, 0, n * pixels, g->k};
    for (ptrdiff_t image = 0; image < n; image += together) {
        ptrdiff_t images = cn_min(together, n - image);
        ptrdiff_t block = gemm_block_size(pixels_before(g, images, g->s, 0));
        copy_planes(g, x + image * g->h * g->w * g->c + channel, channels, images, planes, block);
        for (ptrdiff_t j = 0; j < g->k; j += GEMM_NR) {
            gemm_panel panel = gemm_panel_at(&dy, j);
            panel.data += image * pixels * panel.pitch;
            for (ptrdiff_t tap = 0; tap < g->r * g->s; tap++) {
                ptrdiff_t r = tap / g->s, phase = r % g->stride_h, down = r / g->stride_h;
                inner_rows met = rows_inside(g, r - g->top, g->p);
                ptrdiff_t before =
                    pixels_before(g, images, tap % g->s, phase) + (down + met.first) * g->q;
                ptrdiff_t next = plane_rows(g, phase) * g->q * GEMM_BLOCK, inner = met.count * g->q;
                gemm_rows rows = {.x = planes + before * GEMM_BLOCK,
                                  .ld = 1,
                                  .runs = 1,
                                  .run_length = inner,
                                  .step = GEMM_BLOCK,
                                  .groups = images,
                                  .group_stride = next,
                                  .block = block,
                                  .passed = pixels - inner};
                gemm_panel under = panel;
                under.data += met.first * g->q * panel.pitch;
                CN(gemm)(&rows, channels, under, cn_min(GEMM_NR, g->k - j),
                         dw + (tap * g->c + channel) * g->k + j, g->k,
                         (gemm_epilogue){NULL, 0, image > 0});
            }
        }
    }
}

void CN(conv_weights)(const geometry *g, ptrdiff_t n, const real *x, const real *dy, real *dw,
                      real *workspace, ptrdiff_t chunk, void *scratch) {
    weights_layout o = layout_of(g);
    if (o.copies) {
        weights_of_copies(g, n, x, workspace, dw, chunk, scratch);
        return;
    }
    ptrdiff_t strips = strip_groups(g, o, n), groups = row_groups(g, o, n);
    range columns = group_of(g->k, GEMM_STRIP, strips, chunk % strips);
    range weights = group_of(o.filter_rows, GEMM_BLOCK, groups, chunk / strips % groups);
    ptrdiff_t parts = active_parts(g, o, n), part = chunk / strips / groups;
    real *packed = (real *)((char *)scratch + packed_offset(g));
    dw_sums sums = {workspace + part * o.weights, o.filter_rows, 0, 0};
    if (sums_are_dw(g, o, n)) sums.data = dw, sums.pitch = g->k;
    int one_row = g->p == 1;
    ptrdiff_t rows_or_columns = one_row ? g->q : g->p, unit = one_row ? 1 : g->q;
    ptrdiff_t block = one_row ? weight_columns(g) : weight_block(g), together = weight_images(g);
    ptrdiff_t cut = image_parts(g, o, n), whole = parts / cut, example = g->h * g->w * g->c;
    ptrdiff_t image = cn_part(n, whole, part / cut), end = cn_part(n, whole, part / cut + 1);
    ptrdiff_t first = cn_part(rows_or_columns, cut, part % cut);
    ptrdiff_t last = cn_part(rows_or_columns, cut, part % cut + 1);
    ptrdiff_t down = one_row ? g->stride_w * g->c : g->stride_h * g->w * g->c;
    ptrdiff_t stop = (end - 1) * g->p * g->q + last * unit; /* pixels before the end of the part */
    if (o.turned) memset(sums.data, 0, (size_t)o.weights * sizeof(real));
    for (ptrdiff_t images; image < end; image += images) {
        images = cn_min(together, end - image);
        for (ptrdiff_t at = first; at < last; at += block) {
            ptrdiff_t some = cn_min(block, last - at), rows = one_row ? 1 : some;
            ptrdiff_t before = image * g->p * g->q + at * unit;
            dw_block b = {.g = one_row ? piece_of_y(*g, at, some) : *g, .p0 = one_row ? 0 : at};
            b.x = dw_pixels(&b.g, o.turned, x + image * example, images, b.p0, rows, scratch,
                            &b.line);
            b.dy = dy + before * g->k;
            b.count = images * some * unit;
            b.more = n * g->p * g->q - before - b.count;
            b.follows = before + 2 * b.count <= stop;
            if (b.follows && b.x.x != (real *)scratch)
                b.x.beside =
                    at + some < last ? some * down : images * example - (at - first) * down;
            if (o.turned)
                turned_dw(&b, sums.data);
            else
                dw_strips(&b, columns, weights, packed, &sums);
            sums.accumulate = 1;
        }
    }
}

/* Rows of dw that one chunk adds up: some 4096 elements. */
enum { COMBINED = 4096 };
static ptrdiff_t combine_rows(const geometry *g) { return cn_max(1, COMBINED / g->k); }

ptrdiff_t CN(conv_weights_combine_chunks)(const geometry *g, ptrdiff_t n) {
    weights_layout o = layout_of(g);
    return sums_are_dw(g, o, n) ? 0 : cn_ceil_div(o.filter_rows, combine_rows(g));
}

/* Adds up rows row .. end-1 of dw, of turned parts. */
static void combine_turned(const geometry *g, const real *parts, ptrdiff_t count, ptrdiff_t apart,
                           ptrdiff_t row, ptrdiff_t end, real *dw) {
    ptrdiff_t taps = g->s * g->c, pitch = turned_pitch(g);
    real sums[COMBINED];
    for (ptrdiff_t rows; row < end; row += rows) {
        rows = cn_min(end - row, taps - row % taps); /* of one filter row */
        for (ptrdiff_t j = 0; j < g->k; j++) {
            const real *filter = parts + (row / taps * g->k + j) * pitch + row % taps;
            CN(add_parts)(sums, filter, count, apart, 0, rows);
            for (ptrdiff_t i = 0; i < rows; i++) dw[(row + i) * g->k + j] = sums[i];
        }
    }
}

void CN(conv_weights_combine)(const geometry *g, ptrdiff_t n, const real *workspace, real *dw,
                              ptrdiff_t chunk) {
    weights_layout o = layout_of(g);
    ptrdiff_t parts = active_parts(g, o, n), row = chunk * combine_rows(g);
    ptrdiff_t end = cn_min(o.filter_rows, row + combine_rows(g));
    if (o.turned) {
        combine_turned(g, workspace, parts, o.weights, row, end, dw);
        return;
    }
    for (; row < end; row++)
        for (ptrdiff_t panel = 0; panel < gemm_panels(g->k); panel++) {
            ptrdiff_t j = panel * GEMM_NR, width = gemm_panel_width(g->k, panel);
            const real *sums = workspace + gemm_packed_place(o.filter_rows, g->k, row, j);
            CN(add_parts)(dw + row * g->k + j, sums, parts, o.weights, 0, width);
        }
}
