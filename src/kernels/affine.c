#include "affine.h"

#include "dots.h"
#include "gemm.h"
#include "gemv.h"
#include "reduce.h"

/* A chunk multiplies a block of rows with a strip of the product's right side, DEPTH rows of it at
 * a time; packed, if need be, into its thread's scratch. The blocks are long enough to pay for
 * that. */
enum { DEPTH = 512, ROWS = 256 };

/* Rows at a time where x goes by columns: what a tile meets of x is then as large as its panel, and
 * both are to stay near. */
enum { WIDE_PANELS = GEMM_TOGETHER == 1, DEPTH_BY_COLUMNS = DEPTH / (WIDE_PANELS ? 2 : 4) };

/* Blocks of `rows` rows, with as many columns as `strips` hold: some 16 chunks where there is
 * enough to do, rows for an eighth or less of what packing takes, and not more than caches hold.
 * 33 to 64 rows of few columns are halved for a second thread, unless they are done in two or three
 * microseconds. */
static ptrdiff_t row_blocks(ptrdiff_t rows, ptrdiff_t strips, ptrdiff_t depth) {
    int halves = rows > 32 && strips < 4 && strips * depth > 32;
    ptrdiff_t most = cn_max(cn_ceil_div(rows, 64), halves ? 2 : 1);
    ptrdiff_t least = cn_ceil_div(rows, ROWS);
    return cn_clamp(cn_ceil_div(16, strips), least, most);
}

/* The chunk's block of rows and strip. Threads take chunks that follow each other: of the larger of
 * the two operands each meets its own part. */
typedef struct {
    ptrdiff_t block, strip;
} place;
static place place_of(ptrdiff_t chunk, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t blocks,
                      ptrdiff_t strips) {
    return rows < columns && strips >= 4 ? (place){chunk % blocks, chunk / blocks}
                                         : (place){chunk / strips, chunk % strips};
}

/* A matrix by its steps from row to row and from column to column, one of which is 1. */
typedef struct {
    const real *data;
    ptrdiff_t row, column;
} matrix;

/* y = x w + bias: rows from .. to of x, all of the depth, and one strip of w's columns. x is
 * (rows, depth) with one step 1; y begins with row `from` and the strip. */
static void product(matrix x, matrix w, ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t strip,
                    const real *bias, int relu, real *y, ptrdiff_t pitch, ptrdiff_t from,
                    ptrdiff_t to, real *packed) {
    ptrdiff_t most = x.column == 1 ? DEPTH : DEPTH_BY_COLUMNS;
    ptrdiff_t at_once = cn_ceil_div(depth, cn_ceil_div(depth, most));
    ptrdiff_t first = strip * GEMM_STRIP, width = cn_min(GEMM_STRIP, columns - first);
    for (ptrdiff_t l = 0, some; l < depth; l += some) {
        some = cn_min(at_once, depth - l);
        int ends = l + some == depth; /* with this, or with the rows that come apart */
        if (ends) some -= CN(gemm_rows_apart)(w.row, w.column, some, width, to - from);
        int last = l + some == depth;
        /* By columns x may come from memory, unless the strip before has read it. */
        gemm_rows rows = {.x = x.data + from * x.row + l * x.column,
                          .ld = x.row,
                          .runs = 1,
                          .run_length = some,
                          .step = x.column,
                          .groups = 1,
                          .beside = ends || columns > GEMM_STRIP ? 0 : some * x.column};
        const real *right = w.data + l * w.row + first * w.column;
        gemm_columns met = CN(gemm_columns_of)(packed, right, w.row, w.column, some, width,
                                               to - from, depth - l - some);
        for (ptrdiff_t j = 0; j < width; j += GEMM_NR) {
            gemm_panel panel = gemm_panel_at(&met, j);
            /* The rows that follow, or the next strip, which a thread that has all rows comes to
             * next. With 16 registers asking costs a variant, for what comes from far away. */
            if (w.column == 1 && (GEMM_NV == 4 || x.column != 1)) {
                if (!ends)
                    gemm_ask_for(&panel, right + some * w.row + j, w.row);
                else if (first + 2 * GEMM_STRIP <= columns)
                    gemm_ask_for(&panel, w.data + first + GEMM_STRIP + j, w.row);
            }
            gemm_epilogue epilogue = {last && bias ? bias + first + j : NULL, last && relu, l > 0};
            gemm_rows asking = gemm_share_asking(rows, to - from, j, width);
            CN(gemm)(&asking, to - from, panel, cn_min(GEMM_NR, width - j), y + j, pitch, epilogue);
        }
    }
}

static const char *forward_check(const void *args) {
    const affine_forward *a = args;
    ptrdiff_t n = a->x.shape[0], d = cn_example(a->x), m = a->w.shape[1];
    if (!cn_present(a->x) || n < 1 || d < 1) return "x must have at least one element";
    if (!cn_is(a->w, 2, d, m, 1, 1) || m < 1) return "w must have shape (d, m)";
    if (!cn_optional(a->b, 1, m, 1, 1, 1)) return "b must have shape (m,)";
    if (!cn_is(a->y, 2, n, m, 1, 1)) return "y must have shape (n, m)";
    return NULL;
}

/* Forward: stage 0 multiplies. A few columns of long sums are made in parts. Of a minibatch stage 1
 * adds them up: so there is enough to do without small blocks of rows, each of which packs w anew,
 * and strips that differ in width leave no thread waiting. (What one strip would gain is less than
 * adding up takes.) Two parts are made where caches hold w, of long sums, which adding up adds
 * little to, up to the last cache: so each of two threads reads the half of its rows that it also
 * updates (update.c), and no line of it travels from cache to cache; very few columns are not worth
 * it. Of more rows than a minibatch's a chunk makes all parts and adds them up. The parts depend on
 * w's shape alone: an example's result does not depend on how many it comes with. */
enum { LONG_SUM = 2048, FEW_STRIPS = 4, MOST_PARTS = 4, PART_SUMS = ROWS * GEMM_STRIP };
enum { HALVED_SUM = 512, VERY_FEW = 16, HALVED = 1 << 19, HALVED_LONG = 1 << 21 };

static ptrdiff_t forward_parts(const affine_forward *a) {
    ptrdiff_t d = a->w.shape[0], strips = gemm_strips(a->w.shape[1]);
    if (d >= LONG_SUM && strips > 1 && strips <= FEW_STRIPS) return MOST_PARTS;
    ptrdiff_t most = d >= LONG_SUM ? HALVED_LONG : HALVED;
    return d >= HALVED_SUM && a->w.shape[1] > VERY_FEW && cn_elements(a->w) <= most ? 2 : 1;
}

static int few_columns(const affine_forward *a) { return dots_pay(a->w.shape[1], a->w.shape[0]); }

/* One example meets a large matrix along its rows, in pieces as wide as leave some chunks. */
enum { LARGE = (1 << 20) / (int)sizeof(real) };
static int reads_rows(const affine_forward *a, ptrdiff_t n) {
    return n == 1 && cn_elements(a->w) >= LARGE && forward_parts(a) < MOST_PARTS && !few_columns(a);
}

/* Parts that are chunks of their own. */
static ptrdiff_t parts_apart(const affine_forward *a, ptrdiff_t n) {
    return n <= ROWS && !reads_rows(a, n) ? forward_parts(a) : 1;
}

/* Reals of one, of all columns. */
static ptrdiff_t forward_part(const affine_forward *a) {
    return cn_min(a->x.shape[0], ROWS) * a->w.shape[1];
}

static ptrdiff_t forward_workspace(const void *args) {
    ptrdiff_t parts = forward_parts(args);
    return parts > 1 ? parts * forward_part(args) * (ptrdiff_t)sizeof(real) : 0;
}

static ptrdiff_t forward_scratch(const void *args) {
    const affine_forward *a = args;
    ptrdiff_t sums = forward_parts(a) > 1 ? forward_parts(a) * PART_SUMS : 0;
    ptrdiff_t columns = few_columns(a) ? cn_elements(a->w) : 0;
    return cn_max(DEPTH * GEMM_STRIP + sums, columns) * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t forward_blocks(const affine_forward *a, ptrdiff_t n) {
    return row_blocks(n, gemm_strips(a->w.shape[1]) * parts_apart(a, n), a->w.shape[0]);
}

/* Columns of such a piece. */
static ptrdiff_t piece(const affine_forward *a) {
    return cn_clamp(cn_round_up(cn_ceil_div(a->w.shape[1], 4), VL), 256, 1024);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    const affine_forward *a = args;
    if (reads_rows(a, n)) return cn_ceil_div(a->w.shape[1], piece(a));
    return gemm_strips(a->w.shape[1]) * parts_apart(a, n) * forward_blocks(a, n);
}

/* Rows from .. to and a strip of one part. */
static void forward_product(const affine_forward *a, ptrdiff_t part, ptrdiff_t strip,
                            ptrdiff_t from, ptrdiff_t to, real *y, ptrdiff_t pitch, real *scratch) {
    ptrdiff_t d = a->w.shape[0], m = a->w.shape[1], parts = forward_parts(a);
    ptrdiff_t first = cn_part(d, parts, part), depth = cn_part(d, parts, part + 1) - first;
    int whole = parts == 1;
    product((matrix){(const real *)a->x.data + first, d, 1},
            (matrix){(const real *)a->w.data + first * m, m, 1}, depth, m, strip,
            whole ? a->b.data : NULL, whole && a->relu, y, pitch, from, to, scratch);
}

/* Adds parts up, in order: rows of `columns`, `apart` reals from part to part. */
static void add_up(const affine_forward *a, const real *part, ptrdiff_t apart, ptrdiff_t pitch,
                   const real *bias, ptrdiff_t rows, ptrdiff_t columns, real *y) {
    ptrdiff_t parts = forward_parts(a);
    for (ptrdiff_t i = 0; i < rows; i++, part += pitch, y += a->w.shape[1])
        V_EACH(j, 0, columns, {
            vec sum = v_load_n(part + j, some);
            for (ptrdiff_t p = 1; p < parts; p++) sum += v_load_n(part + p * apart + j, some);
            if (bias) sum += v_load_n(bias + j, some);
            v_store_n(y + j, a->relu ? v_relu(sum) : sum, some);
        });
}

/* Rows from .. to as dot products with the few columns of w. */
static void forward_dots(const affine_forward *a, ptrdiff_t from, ptrdiff_t to, real *columns) {
    ptrdiff_t d = a->w.shape[0], m = a->w.shape[1];
    const real *w = a->w.data;
    if (m > 1) dots_columns(columns, w, d, m);
    dots o = {
        .x = (const real *)a->x.data + from * d,
        .ld = d,
        .rows = to - from,
        .runs = 1,
        .run_length = d,
        .w = m > 1 ? columns : w,
        .ldw = d,
        .columns = m,
        .bias = a->b.data,
        .relu = (int)a->relu,
        .y = (real *)a->y.data + from * m,
        .row = m,
        .column = 1,
    };
    CN(dots_run)(&o);
}

static void forward_rows(const affine_forward *a, ptrdiff_t chunk, real *sums) {
    ptrdiff_t d = a->w.shape[0], m = a->w.shape[1], parts = forward_parts(a);
    ptrdiff_t j = chunk * piece(a), columns = cn_min(piece(a), m - j);
    const real *bias = a->b.data ? (const real *)a->b.data + j : NULL;
    real *y = (real *)a->y.data + j;
    for (ptrdiff_t part = 0; part < parts; part++) {
        ptrdiff_t first = cn_part(d, parts, part);
        gemv o = {
            .x = (const real *)a->x.data + first,
            .w = (const real *)a->w.data + first * m + j,
            .pitch = m,
            .rows = cn_part(d, parts, part + 1) - first,
            .columns = columns,
            .bias = parts == 1 ? bias : NULL,
            .relu = parts == 1 && a->relu,
            .y = parts == 1 ? y : sums + part * columns,
        };
        CN(gemv_run)(&o);
    }
    if (parts > 1) add_up(a, sums, columns, columns, bias, 1, columns, y);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const affine_forward *a = args;
    if (reads_rows(a, step->n)) {
        forward_rows(a, chunk, scratch);
        return;
    }
    ptrdiff_t n = step->n, m = a->w.shape[1], strips = gemm_strips(m), parts = parts_apart(a, n);
    ptrdiff_t blocks = forward_blocks(a, n), part = chunk / (strips * blocks);
    place at = place_of(chunk % (strips * blocks), n, m, blocks, strips);
    ptrdiff_t from = cn_part(n, blocks, at.block), to = cn_part(n, blocks, at.block + 1);
    ptrdiff_t column = at.strip * GEMM_STRIP, result = from * m + column;
    real *y = (real *)a->y.data + result, *sums = a->head.workspace;
    if (few_columns(a)) {
        forward_dots(a, from, to, scratch);
    } else if (parts > 1) {
        sums += part * forward_part(a) + result;
        forward_product(a, part, at.strip, from, to, sums, m, scratch);
    } else if (forward_parts(a) == 1) {
        forward_product(a, 0, at.strip, from, to, y, m, scratch);
    } else {
        sums = (real *)scratch + DEPTH * GEMM_STRIP;
        for (ptrdiff_t p = 0; p < forward_parts(a); p++)
            forward_product(a, p, at.strip, from, to, sums + p * PART_SUMS, GEMM_STRIP, scratch);
        const real *bias = a->b.data ? (const real *)a->b.data + column : NULL;
        add_up(a, sums, PART_SUMS, GEMM_STRIP, bias, to - from, cn_min(GEMM_STRIP, m - column), y);
    }
}

/* Elements that a chunk adds up, of y or of dw. */
enum { COMBINE_BLOCK = 4096 };

static ptrdiff_t rows_combined(const affine_forward *a) {
    return COMBINE_BLOCK / a->w.shape[1]; /* where there are parts, at least 4 */
}

static ptrdiff_t forward_combine_chunks(const void *args, ptrdiff_t n) {
    return parts_apart(args, n) > 1 ? cn_ceil_div(n, rows_combined(args)) : 0;
}

static void forward_combine(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_forward *a = args;
    ptrdiff_t m = a->w.shape[1], from = chunk * rows_combined(a);
    add_up(a, (const real *)a->head.workspace + from * m, forward_part(a), m, a->b.data,
           cn_min(rows_combined(a), step->n - from), m, (real *)a->y.data + from * m);
}

/* Backward: stage 0 copies what dw's sums would read again and again, columns of x to blocks and dy
 * to panels, where that pays; stage 1, which joins it, turns dy around where dx is made across.
 * Stages 2 to 4, which join, make dx, dw and db, or parts of the sums over a long batch, which
 * stage 5 adds up. */

typedef struct {
    ptrdiff_t d, m;
    ptrdiff_t parts;                     /* of dw's sums over the batch, at most */
    int copies;                          /* whether dw is made of them */
    int transposed;                      /* whether dw^T is made, of strips of x */
    ptrdiff_t dw_parts, db_parts, bytes; /* offsets in the workspace, and its size */
    ptrdiff_t x_blocks, dy_panels, dy_across;
} backward_layout;

/* Examples that a part of dw sums over, at least, and chunks of dw for which parts are enough. */
enum { PART = 256, MANY_CHUNKS = 64 };

/* Examples that are read at a time of copies: a chunk's rows of them fit the second cache. */
enum { DEPTH_COPIED = DEPTH / 2 };

/* Columns of x touch as many lines as there are examples, which a power of two between them puts
 * into a few sets of the caches, and each panel of dw reads them once. Then copies pay; wide panels
 * read x less often: there the second cache must not hold them either, and what all panels read
 * must be much. Copies of a batch that is most of a dataset would be too large. */
enum { FEW_EXAMPLES = 32, MUCH_READ = 64 << 20, MOST_COPIED = 64 << 20 };

/* So few outputs may leave vectors empty that x's columns fill, of dw^T. */
enum { MOST_TRANSPOSED = 12 };

/* dx = dy w^T meets w by columns, which packing has to turn around. dx^T = w dy^T, to the same
 * bits, meets rows of w as they stand, and what is turned around is dy, once, and the result: less
 * by far of few examples and long sums, where examples fill vectors as well as inputs do. Sums are
 * not cut as far as tiles ask ahead for rows (FAR_TERMS in gemm.c), which then follow each other.
 */
enum { MOST_ACROSS = 128, LONG_ACROSS = 8, LEAST_ACROSS = 256, DEPTH_ACROSS = 2 * DEPTH };
static ptrdiff_t most_across(ptrdiff_t d, ptrdiff_t m) {
    return d >= LEAST_ACROSS ? cn_min(MOST_ACROSS, m / LONG_ACROSS) : 0;
}

/* Blocks of rows of dw made of copies, at most. */
static ptrdiff_t most_blocks(ptrdiff_t d) { return cn_ceil_div(d, 2 * GEMM_BLOCK); }

static backward_layout layout_of(const affine_backward *a) {
    backward_layout o;
    ptrdiff_t n = a->x.shape[0], bytes = (ptrdiff_t)sizeof(real);
    o.d = a->w.shape[0];
    o.m = a->w.shape[1];
    int few_sets = o.d * bytes % 1024 == 0;
    int emptier = o.m <= MOST_TRANSPOSED && o.m * 4 <= cn_round_up(o.m, VL) * 3;
    o.transposed = emptier && (o.m <= 4 || o.d >= 64);
    o.copies = cn_present(a->dw) && few_sets && !o.transposed && n > FEW_EXAMPLES &&
               n * (o.d + o.m) <= MOST_COPIED / bytes &&
               (!WIDE_PANELS || (o.d * bytes % GEMM_FAR_APART == 0 &&
                                 gemm_panels(o.m) * n * o.d >= MUCH_READ / bytes));
    /* Parts where blocks and strips are not enough chunks. They go by the shape of dw and the
     * batch at hand, not by `copies`, which a larger batch to come would change. */
    o.parts = 1;
    if (n >= 2 * PART) {
        ptrdiff_t strips = gemm_strips(o.m);
        ptrdiff_t blocks = o.transposed               ? gemm_strips(o.d)
                           : few_sets && !WIDE_PANELS ? most_blocks(o.d)
                                                      : row_blocks(o.d, strips, PART);
        o.parts = cn_clamp(MANY_CHUNKS / (blocks * strips), 1,
                           cn_clamp((4 << 20) / (o.d * o.m * 8), 1, n / PART));
    }
    o.dw_parts = 0;
    o.db_parts = o.parts > 1 ? cn_round_up(o.parts * o.d * o.m * bytes, 64) : 0;
    o.x_blocks = o.db_parts + cn_round_up(reduce_parts(n) * o.m * (ptrdiff_t)sizeof(double), 64);
    ptrdiff_t blocks = o.copies ? cn_ceil_div(o.d, GEMM_BLOCK) * gemm_block_size(n) : 0;
    o.dy_panels = o.x_blocks + cn_round_up(blocks * bytes, 64);
    o.dy_across = o.dy_panels + cn_round_up((o.copies ? gemm_packed_size(n, o.m) : 0) * bytes, 64);
    ptrdiff_t across = cn_present(a->dx) ? cn_min(n, most_across(o.d, o.m)) : 0;
    o.bytes = o.dy_across + gemm_packed_size(o.m, across) * bytes;
    return o;
}

static ptrdiff_t active_parts(backward_layout o, ptrdiff_t n) {
    return cn_clamp(n / PART, 1, o.parts);
}

/* Blocks of rows of dw. Copied already, few rows cost a chunk nothing; otherwise each block packs
 * dy anew, and parts are chunks, too. */
static ptrdiff_t weight_blocks(backward_layout o, ptrdiff_t n) {
    ptrdiff_t strips = gemm_strips(o.m);
    if (o.transposed) return gemm_strips(o.d);
    return o.copies ? cn_clamp(MANY_CHUNKS / strips, cn_ceil_div(o.d, ROWS), most_blocks(o.d))
                    : row_blocks(o.d, strips * active_parts(o, n), n);
}

/* Blocks and strips of dx: of examples and inputs, or across, of inputs and examples. */
typedef struct {
    int across;
    ptrdiff_t rows, columns, blocks, strips;
} dx_cut;
static dx_cut dx_cut_of(backward_layout o, ptrdiff_t n) {
    enum { LEAST_ROWS = 32, MOST_BLOCKS = 32 };
    int vectors_are_full = 16 * n >= 15 * cn_round_up(n, VL);
    if (n <= most_across(o.d, o.m) && vectors_are_full && !dots_pay(n, o.m)) {
        ptrdiff_t rows = cn_clamp(o.d / MOST_BLOCKS, LEAST_ROWS, ROWS);
        return (dx_cut){1, o.d, n, cn_ceil_div(o.d, rows), gemm_strips(n)};
    }
    return (dx_cut){0, n, o.d, row_blocks(n, gemm_strips(o.d), o.m), gemm_strips(o.d)};
}

static ptrdiff_t dx_chunks(const void *args, ptrdiff_t n) {
    const affine_backward *a = args;
    dx_cut cut = dx_cut_of(layout_of(a), n);
    return cn_present(a->dx) ? cut.strips * cut.blocks : 0;
}

static ptrdiff_t dw_chunks(const void *args, ptrdiff_t n) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    return cn_present(a->dw) ? active_parts(o, n) * weight_blocks(o, n) * gemm_strips(o.m) : 0;
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

/* A chunk copies rows of x and dy as they lie in memory, from few pages: some lines of each block
 * and panel. Of wide rows it copies a part, so that threads copy the columns that they are to read
 * and no line of those travels from cache to cache. */
enum { ROWS_COPIED = 16, COLUMNS_COPIED = 256 };

static ptrdiff_t columns_parts(backward_layout o) {
    return cn_clamp(cn_max(o.d, o.m) / COLUMNS_COPIED, 1, 16);
}

static ptrdiff_t copy_chunks(const void *args, ptrdiff_t n) {
    backward_layout o = layout_of(args);
    return o.copies ? columns_parts(o) * cn_ceil_div(n, ROWS_COPIED) : 0;
}

static void copy_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    ptrdiff_t n = step->n, block = gemm_block_size(n), pieces = cn_ceil_div(n, ROWS_COPIED);
    ptrdiff_t parts = columns_parts(o), part = chunk / pieces;
    ptrdiff_t from = chunk % pieces * ROWS_COPIED, to = cn_min(n, from + ROWS_COPIED);
    real *x_blocks = (real *)((char *)a->head.workspace + o.x_blocks);
    ptrdiff_t i = cn_part_of_units(o.d, GEMM_BLOCK, parts, part);
    CN(gemm_copy)(x_blocks + i / GEMM_BLOCK * block + from * GEMM_BLOCK, block,
                  (const real *)a->x.data + from * o.d + i, o.d, to - from,
                  cn_part_of_units(o.d, GEMM_BLOCK, parts, part + 1) - i);
    real *dy_panels = (real *)((char *)a->head.workspace + o.dy_panels);
    ptrdiff_t j = cn_part_of_units(o.m, GEMM_NR, parts, part);
    CN(gemm_pack_rows)(dy_panels + n * j, (const real *)a->dy.data + j, o.m, from, to, n,
                       cn_part_of_units(o.m, GEMM_NR, parts, part + 1) - j);
}

/* Terms of a panel of dy^T that a chunk turns around. */
enum { TURNED = 128 };

static ptrdiff_t turn_chunks(const void *args, ptrdiff_t n) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    int across = cn_present(a->dx) && dx_cut_of(o, n).across;
    return across ? gemm_panels(n) * cn_ceil_div(o.m, TURNED) : 0;
}

/* A piece of a panel of dy^T. */
static void turn_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    ptrdiff_t n = step->n, panels = gemm_panels(n);
    ptrdiff_t j = chunk % panels * GEMM_NR, l = chunk / panels * TURNED;
    ptrdiff_t width = cn_min(GEMM_NR, n - j);
    real *panel = (real *)((char *)a->head.workspace + o.dy_across) + o.m * j;
    CN(gemm_pack)(panel + l * cn_round_up(width, VL), (const real *)a->dy.data + j * o.m + l, 1,
                  o.m, cn_min(TURNED, o.m - l), width);
}

static ptrdiff_t backward_scratch(const void *args) {
    (void)args;
    return (DEPTH + MOST_TRANSPOSED) * GEMM_STRIP * (ptrdiff_t)sizeof(real);
}

/* y = x right: some rows of x, the panels of a strip, and what of the depth lies from .. to, at
 * most so much of it at a time. */
static void product_of_panels(gemm_rows x, ptrdiff_t rows, gemm_columns right, ptrdiff_t from,
                              ptrdiff_t to, ptrdiff_t most, real *y, ptrdiff_t pitch) {
    ptrdiff_t at_once = cn_ceil_div(to - from, cn_ceil_div(to - from, most));
    const real *begin = x.x;
    for (ptrdiff_t l = from; l < to; l += at_once) {
        x.x = begin + l * x.step;
        x.run_length = cn_min(at_once, to - l);
        for (ptrdiff_t j = 0; j < right.width; j += GEMM_NR) {
            gemm_panel panel = gemm_panel_at(&right, j);
            panel.data += l * panel.pitch;
            CN(gemm)(&x, rows, panel, cn_min(GEMM_NR, right.width - j), y + j, pitch,
                     (gemm_epilogue){NULL, 0, l > from});
        }
    }
}

/* to[j][i] = from[i][j], from's rows a strip apart. Whole squares of vectors are read, also of what
 * lies beyond. */
static void turn_around(real *to, ptrdiff_t pitch, const real *from, ptrdiff_t rows,
                        ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns; j += VL)
        for (ptrdiff_t i = 0; i < rows; i += VL) {
            vec v[VL];
#pragma GCC unroll 16
            for (int k = 0; k < VL; k++) v[k] = v_load(from + (i + k) * GEMM_STRIP + j);
            v_transpose(v);
            for (ptrdiff_t k = 0; k < cn_min(VL, columns - j); k++)
                v_store_n(to + (j + k) * pitch + i, v[k], rows - i);
        }
}

/* Columns from .. to of a strip of examples of dx. */
static void dx_across(const affine_backward *a, backward_layout o, ptrdiff_t n, ptrdiff_t strip,
                      ptrdiff_t from, ptrdiff_t to, real *sums) {
    ptrdiff_t first = strip * GEMM_STRIP, width = cn_min(GEMM_STRIP, n - first);
    const char *workspace = a->head.workspace;
    gemm_rows w = {.x = (const real *)a->w.data + from * o.m,
                   .ld = o.m,
                   .runs = 1,
                   .step = 1,
                   .groups = 1,
                   .far = 1};
    gemm_columns dy = {(const real *)(workspace + o.dy_across) + o.m * first, 0, o.m, width};
    product_of_panels(w, to - from, dy, 0, o.m, DEPTH_ACROSS, sums, GEMM_STRIP);
    turn_around((real *)a->dx.data + first * o.d + from, o.d, sums, to - from, width);
}

static void dx_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    ptrdiff_t n = step->n;
    dx_cut cut = dx_cut_of(o, n);
    place at = place_of(chunk, cut.rows, cut.columns, cut.blocks, cut.strips);
    ptrdiff_t from = cn_part(cut.rows, cut.blocks, at.block);
    ptrdiff_t to = cn_part(cut.rows, cut.blocks, at.block + 1);
    if (cut.across) {
        dx_across(a, o, n, at.strip, from, to, scratch);
        return;
    }
    /* dy and w both lie along the sum: of a few inputs, or a few examples, dx is dot products. */
    dots few = {
        .x = (const real *)a->dy.data + from * o.m,
        .ld = o.m,
        .rows = to - from,
        .runs = 1,
        .run_length = o.m,
        .w = a->w.data,
        .ldw = o.m,
        .columns = o.d,
        .y = (real *)a->dx.data + from * o.d,
        .row = o.d,
        .column = 1,
    };
    if (dots_pay(o.d, o.m)) {
        CN(dots_run)(&few);
        return;
    }
    if (dots_pay(n, o.m)) {
        ptrdiff_t first = at.strip * GEMM_STRIP;
        few.x = (const real *)a->w.data + first * o.m;
        few.rows = cn_min(GEMM_STRIP, o.d - first);
        few.w = a->dy.data;
        few.columns = n;
        few.y = (real *)a->dx.data + first;
        few.row = 1;
        few.column = o.d;
        CN(dots_run)(&few);
        return;
    }
    product((matrix){a->dy.data, o.m, 1}, (matrix){a->w.data, 1, o.m}, o.m, o.d, at.strip, NULL, 0,
            (real *)a->dx.data + from * o.d + at.strip * GEMM_STRIP, o.d, from, to, scratch);
}

/* Rows of dw before a block of them; of a copy, which has them by GEMM_BLOCK, a multiple of that.
 */
static ptrdiff_t rows_before(backward_layout o, ptrdiff_t blocks, ptrdiff_t block) {
    return cn_part_of_units(o.d, o.copies ? GEMM_BLOCK : 1, blocks, block);
}

/* Rows row .. end of a strip of dw, summed over examples from .. to of n, from the copies. */
static void product_of_copies(backward_layout o, const char *workspace, ptrdiff_t n, ptrdiff_t from,
                              ptrdiff_t to, ptrdiff_t row, ptrdiff_t end, ptrdiff_t strip,
                              real *dw) {
    ptrdiff_t block = gemm_block_size(n), first = strip * GEMM_STRIP;
    gemm_rows x = {.x = (const real *)(workspace + o.x_blocks) + row / GEMM_BLOCK * block,
                   .ld = 1,
                   .runs = 1,
                   .step = GEMM_BLOCK,
                   .groups = 1,
                   .block = block};
    gemm_columns dy = {(const real *)(workspace + o.dy_panels) + n * first, 0, n,
                       cn_min(GEMM_STRIP, o.m - first)};
    product_of_panels(x, end - row, dy, from, to, DEPTH_COPIED, dw, o.m);
}

/* A strip of dw^T, as rows of dw, summed over examples from .. to. */
static void transposed_dw(const affine_backward *a, backward_layout o, ptrdiff_t strip,
                          ptrdiff_t from, ptrdiff_t to, real *dw, real *scratch) {
    ptrdiff_t first = strip * GEMM_STRIP, rows = cn_min(GEMM_STRIP, o.d - first);
    dw += first * o.m;
    real *sums = o.m > 1 ? scratch + DEPTH * GEMM_STRIP : dw;
    product((matrix){(const real *)a->dy.data + from * o.m, 1, o.m},
            (matrix){(const real *)a->x.data + from * o.d, o.d, 1}, to - from, o.d, strip, NULL, 0,
            sums, GEMM_STRIP, 0, o.m, scratch);
    /* One by one: of few outputs the squares of turn_around would be mostly empty. */
    for (ptrdiff_t j = 0; o.m > 1 && j < o.m; j++)
        for (ptrdiff_t i = 0; i < rows; i++) dw[i * o.m + j] = sums[j * GEMM_STRIP + i];
}

static void dw_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    ptrdiff_t n = step->n;
    ptrdiff_t parts = active_parts(o, n), part = chunk % parts;
    ptrdiff_t blocks = weight_blocks(o, n);
    place at = place_of(chunk / parts, o.d, o.m, blocks, gemm_strips(o.m));
    ptrdiff_t from = cn_part(n, parts, part), to = cn_part(n, parts, part + 1);
    char *workspace = a->head.workspace;
    real *out = parts > 1 ? (real *)(workspace + o.dw_parts) + part * o.d * o.m : a->dw.data;
    if (o.transposed) {
        transposed_dw(a, o, at.block, from, to, out, scratch);
        return;
    }
    ptrdiff_t row = rows_before(o, blocks, at.block), end = rows_before(o, blocks, at.block + 1);
    out += row * o.m + at.strip * GEMM_STRIP;
    if (o.copies)
        product_of_copies(o, workspace, n, from, to, row, end, at.strip, out);
    else
        product((matrix){(const real *)a->x.data + from * o.d, 1, o.d},
                (matrix){(const real *)a->dy.data + from * o.m, o.m, 1}, to - from, o.m, at.strip,
                NULL, 0, out, o.m, row, end, scratch);
}

static ptrdiff_t db_chunks(const void *args, ptrdiff_t n) {
    return cn_present(((const affine_backward *)args)->db) ? reduce_parts(n) : 0;
}

static void db_run(const void *args, const cn_step *step, ptrdiff_t part, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    double *sums = (double *)((char *)a->head.workspace + o.db_parts);
    CN(sum_part)(sums, a->dy.data, step->n, o.m, part);
    if (reduce_parts(step->n) == 1) CN(add_double_parts)(a->db.data, sums, 1, o.m);
}

static ptrdiff_t combine_chunks(const void *args, ptrdiff_t n) {
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    int dw = cn_present(a->dw) && active_parts(o, n) > 1;
    return (dw ? cn_ceil_div(o.d * o.m, COMBINE_BLOCK) : 0) +
           (cn_present(a->db) && reduce_parts(n) > 1);
}

static void combine(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const affine_backward *a = args;
    backward_layout o = layout_of(a);
    char *workspace = a->head.workspace;
    if (cn_present(a->db) && reduce_parts(step->n) > 1 && chunk-- == 0) {
        CN(add_double_parts)(a->db.data, (const double *)(workspace + o.db_parts),
                             reduce_parts(step->n), o.m);
        return;
    }
    CN(add_parts)(a->dw.data, (const real *)(workspace + o.dw_parts), active_parts(o, step->n),
                  o.d * o.m, chunk * COMBINE_BLOCK, cn_min((chunk + 1) * COMBINE_BLOCK, o.d * o.m));
}

#define CN_ARGS_TYPE affine_forward
static const cn_kernel forward = {
    .name = "affine_forward",
    .args_size = sizeof(affine_forward),
    .fields = CN_TABLE(AFFINE_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .scratch = forward_scratch,
    .stages = {{forward_chunks, forward_run}, {forward_combine_chunks, forward_combine}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE affine_backward
static const cn_kernel backward = {
    .name = "affine_backward",
    .args_size = sizeof(affine_backward),
    .fields = CN_TABLE(AFFINE_BACKWARD),
    .check = backward_check,
    .workspace = backward_workspace,
    .scratch = backward_scratch,
    .stages = {{copy_chunks, copy_run},
               {turn_chunks, turn_run, .joins = 1},
               {dx_chunks, dx_run},
               {dw_chunks, dw_run, .joins = 1},
               {db_chunks, db_run, .joins = 1},
               {combine_chunks, combine}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(affine)[] = {&forward, &backward, NULL};
