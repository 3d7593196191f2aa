/* Matrix product of rows read in place and a panel, packed or in place.
 *
 *     y[i][j] = sum over group, run, l of  x[i*ld + group*group_stride + run*run_stride + l*step]
 *                           * w[group*passed + (group*runs + run)*run_length + l][j]
 *
 * An affine layer is one run. A convolution over NHWC rows is one run for each filter row: ld steps
 * from pixel to pixel, run_stride from image row to image row, and a run covers filter column and
 * channel. A gradient with respect to weights has ld = 1 and step = the pitch of a row; its groups
 * are images, its runs their rows. Its rows may lie in blocks: then row i is row i % GEMM_BLOCK of
 * the block that begins at x + i / GEMM_BLOCK * block.
 *
 * The sum of one y[i][j] is one chain of fused multiply-adds in ascending group, run and l,
 * whatever tile computes it: its bits depend on neither the other rows nor the other columns nor on
 * how the reduction is blocked. */
#ifndef CN_GEMM_H
#define CN_GEMM_H

#include "simd.h"

/* Widest panel, in vectors: with 32 vector registers 6 rows of 4, with 16 registers 6 of 2. */
#if CN_VECTOR_BYTES == 64 || defined(__aarch64__)
enum { GEMM_NV = 4 };
#else
enum { GEMM_NV = 2 };
#endif
enum { GEMM_NR = GEMM_NV * VL };

typedef struct {
    const real *x;
    ptrdiff_t ld;         /* from row i to row i+1 */
    ptrdiff_t run_stride; /* from run to run */
    ptrdiff_t runs;
    ptrdiff_t run_length;
    ptrdiff_t step; /* from l to l+1, at least 1; either step or ld is 1 */
    ptrdiff_t groups;
    ptrdiff_t group_stride;
    ptrdiff_t block;  /* from block to block of rows, or 0: they lie in none */
    int far;          /* whether they come from memory: where they follow each other, tiles ask for
                         some that are to come */
    ptrdiff_t beside; /* from each number to one that is to follow, asked for meanwhile where rows
                         are columns; with 16 registers, if the panel has a next; or 0 */
    ptrdiff_t asking; /* with 16 registers, of rows that are columns so many ask, at the least
                         GEMM_BLOCK; with 32 all do */
    ptrdiff_t passed; /* rows of w between groups that meet none of x */
} gemm_rows;

typedef struct {
    const real *bias; /* of this panel's columns, or NULL */
    int relu;
    int accumulate; /* continue the chain from what y holds */
} gemm_epilogue;

/* A (depth, columns) matrix is packed as panels of GEMM_NR columns, the last one narrower; columns
 * are filled up to whole vectors with zeros. Panel j begins at depth * j * GEMM_NR. */
CN_INLINE ptrdiff_t gemm_panels(ptrdiff_t columns) { return cn_ceil_div(columns, GEMM_NR); }
CN_INLINE ptrdiff_t gemm_panel_width(ptrdiff_t columns, ptrdiff_t panel) {
    return cn_min(GEMM_NR, columns - panel * GEMM_NR);
}
CN_INLINE ptrdiff_t gemm_packed_size(ptrdiff_t depth, ptrdiff_t columns) {
    return depth * cn_round_up(columns, VL);
}
/* Where the element of a row and a column lies. */
CN_INLINE ptrdiff_t gemm_packed_place(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t row,
                                      ptrdiff_t column) {
    ptrdiff_t panel = column / GEMM_NR, pitch = cn_round_up(gemm_panel_width(columns, panel), VL);
    return depth * panel * GEMM_NR + row * pitch + column % GEMM_NR;
}

/* A panel: whole vectors of columns, `pitch` from row to row. */
typedef struct {
    const real *data;
    ptrdiff_t pitch;
    const real *next; /* the one that is to follow, asked for meanwhile: with 32 registers for the
                         first cache, with 16 for the second; or NULL */
    ptrdiff_t next_pitch;
} gemm_panel;
CN_INLINE gemm_panel gemm_in_place(const real *columns, ptrdiff_t pitch) {
    return (gemm_panel){columns, pitch, NULL, pitch};
}
CN_INLINE gemm_panel gemm_packed(const real *packed, ptrdiff_t width) {
    return gemm_in_place(packed, cn_round_up(width, VL));
}
/* Has the panel asked for that begins at `next`, `pitch` from row to row. */
CN_INLINE void gemm_ask_for(gemm_panel *panel, const real *next, ptrdiff_t pitch) {
    panel->next = next;
    panel->next_pitch = pitch;
}

/* A strip: panels that go together where rows are fetched or written for them, 256 bytes of
 * columns; one panel where vectors are wide. */
enum { GEMM_TOGETHER = 256 / (GEMM_NR * (int)sizeof(real)), GEMM_STRIP = GEMM_TOGETHER * GEMM_NR };
CN_INLINE ptrdiff_t gemm_strips(ptrdiff_t columns) { return cn_ceil_div(columns, GEMM_STRIP); }

/* Packs columns of w, w[l*row + j*column], into panels at `packed`; row or column is 1. */
void CN(gemm_pack)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t column, ptrdiff_t depth,
                   ptrdiff_t width);
/* The same where column is 1, of rows from .. to only; w and the panels begin with row 0. */
void CN(gemm_pack_rows)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t from, ptrdiff_t to,
                        ptrdiff_t depth, ptrdiff_t width);

/* Whether w's rows lie so near each other that its columns are a panel as they stand. Rows far
 * apart share few sets of the caches, the fewer the narrower a panel is. */
enum { GEMM_NEAR = GEMM_NV == 2 ? 2 : 32 };
CN_INLINE int gemm_rows_near(ptrdiff_t row) { return row < GEMM_NEAR * GEMM_NR; }
/* Of rows a multiple of so many bytes apart the second cache holds no more than a hundred or so. */
enum { GEMM_FAR_APART = 8192 };

/* Some columns of a matrix as panels, packed or as they stand. */
typedef struct {
    const real *data;
    ptrdiff_t pitch; /* from row to row of columns that stay; 0: packed */
    ptrdiff_t depth, width;
} gemm_columns;

/* Columns of w for m rows: as they stand, where they lie side by side in rows that lie near, meet
 * few rows of x, or are few; packed otherwise. Columns that are no whole vectors stay only where
 * enough of `more` rows follow: what fills the last row's vector up is the beginning of those. */
gemm_columns CN(gemm_columns_of)(real *packed, const real *w, ptrdiff_t row, ptrdiff_t column,
                                 ptrdiff_t depth, ptrdiff_t width, ptrdiff_t m, ptrdiff_t more);

/* How many of the last rows should come apart from those before them, which then can stay, where no
 * more follow: of the same arguments, and 0 where that is not needed or does not pay. */
ptrdiff_t CN(gemm_rows_apart)(ptrdiff_t row, ptrdiff_t column, ptrdiff_t depth, ptrdiff_t width,
                              ptrdiff_t m);

/* The panel that begins with column j of them, a multiple of GEMM_NR. */
CN_INLINE gemm_panel gemm_panel_at(const gemm_columns *columns, ptrdiff_t j) {
    if (columns->pitch) return gemm_in_place(columns->data + j, columns->pitch);
    return gemm_packed(columns->data + columns->depth * j, cn_min(GEMM_NR, columns->width - j));
}

/* Where rows are columns in memory, a tile takes a few numbers of each line it meets, and of lines
 * that share few sets of the caches. Copied to blocks, whose steps follow each other, it reads what
 * it needs and no more. GEMM_BLOCK rows are whole tiles, of a wide panel and of a narrow one. */
enum { GEMM_BLOCK = 12 };

/* Of m rows that are columns, those with which the panel that begins with column j of so many asks
 * for what is beside. With 16 registers asking takes time: each panel of a strip has a part. */
CN_INLINE gemm_rows gemm_share_asking(gemm_rows x, ptrdiff_t m, ptrdiff_t j, ptrdiff_t columns) {
    if (GEMM_NV == 4 || !x.beside) return x;
    ptrdiff_t panels = gemm_panels(cn_min(GEMM_STRIP, columns - j / GEMM_STRIP * GEMM_STRIP));
    x.asking = cn_round_up(cn_ceil_div(m, panels), GEMM_BLOCK);
    x.beside += j % GEMM_STRIP / GEMM_NR * x.asking;
    return x;
}

/* Room for `steps` of a block; what it has more keeps blocks from a power of two. */
CN_INLINE ptrdiff_t gemm_block_size(ptrdiff_t steps) {
    return steps * GEMM_BLOCK + 64 / (ptrdiff_t)sizeof(real);
}

/* Copies columns of x, `steps` rows of it that lie `ld` apart, to blocks that lie `block` apart.
 * Nothing is stored beyond the last step: those of another chunk may follow. */
void CN(gemm_copy)(real *blocks, ptrdiff_t block, const real *x, ptrdiff_t ld, ptrdiff_t steps,
                   ptrdiff_t columns);

/* y (m, width) from m rows and one panel. */
void CN(gemm)(const gemm_rows *rows, ptrdiff_t m, gemm_panel panel, ptrdiff_t width, real *y,
              ptrdiff_t ldy, gemm_epilogue epilogue);

#endif
