/* Windows of a pooling over NHWC images: size and stride are vertical, horizontal; padding is top,
 * bottom, left, right, and smaller than the window, so that every window meets the image. */
#ifndef CN_WINDOW_H
#define CN_WINDOW_H

#include "kernel.h"

/* NULL, or what is wrong with the sizes of pooling x to y. */
static inline const char *window_check(cn_tensor x, cn_tensor y, const ptrdiff_t *size,
                                       const ptrdiff_t *stride, const ptrdiff_t *padding) {
    const ptrdiff_t largest = ((ptrdiff_t)1 << 31) - 1;
    if (x.rank != 4 || cn_elements(x) < 1) return "x must have shape (n, h, w, c), none of them 0";
    for (int axis = 0; axis < 2; axis++) {
        ptrdiff_t before = padding[2 * axis], after = padding[2 * axis + 1];
        if (size[axis] < 1 || size[axis] > largest) return "size must lie in 1 .. 2^31-1";
        if (stride[axis] < 1 || stride[axis] > largest) return "stride must lie in 1 .. 2^31-1";
        if (before < 0 || after < 0 || before >= size[axis] || after >= size[axis])
            return "padding must be smaller than the window and not negative";
        ptrdiff_t space = x.shape[1 + axis] + before + after - size[axis];
        if (space < 0) return "the window is larger than the padded image";
        if (y.rank != 4 || y.shape[1 + axis] != space / stride[axis] + 1)
            return "y must have the shape that x, size, stride and padding give";
    }
    if (y.shape[0] != x.shape[0] || y.shape[3] != x.shape[3])
        return "y must have shape (n, p, q, c)";
    return NULL;
}

/* The window of one result: its first row and column, which may lie outside the image, and its
 * pixels in the image, rows r0 .. r1-1 and columns s0 .. s1-1 of the window. */
typedef struct {
    ptrdiff_t row, column, r0, r1, s0, s1;
} window;

static inline window window_at(cn_tensor x, const ptrdiff_t *size, const ptrdiff_t *stride,
                               const ptrdiff_t *padding, ptrdiff_t p, ptrdiff_t q) {
    window o;
    o.row = p * stride[0] - padding[0];
    o.column = q * stride[1] - padding[2];
    o.r0 = cn_max(0, -o.row);
    o.r1 = cn_min(size[0], x.shape[1] - o.row);
    o.s0 = cn_max(0, -o.column);
    o.s1 = cn_min(size[1], x.shape[2] - o.column);
    return o;
}

static inline int same_pixels(window a, window b) {
    return a.r0 == b.r0 && a.r1 == b.r1 && a.s0 == b.s0 && a.s1 == b.s1;
}

/* Whether all of a window of 2x2 pixels, the usual one, lies in the image: its loops then have
 * constant bounds. */
static inline int whole_2x2(window o, const ptrdiff_t *size) {
    return size[0] == 2 && size[1] == 2 && o.r0 + o.s0 == 0 && o.r1 + o.s1 == 4;
}
static const window WHOLE_2X2 = {0, 0, 0, 2, 0, 2};

/* Whether no pixel lies in two windows, and whether each of the image then lies in one: windows of
 * y over x. */
static inline int windows_disjoint(const ptrdiff_t *size, const ptrdiff_t *stride) {
    return stride[0] >= size[0] && stride[1] >= size[1];
}
static inline int windows_cover(cn_tensor x, cn_tensor y, const ptrdiff_t *size,
                                const ptrdiff_t *stride, const ptrdiff_t *padding) {
    int all = 1;
    for (int axis = 0; axis < 2; axis++) {
        ptrdiff_t end = y.shape[1 + axis] * size[axis] - padding[2 * axis];
        all &= stride[axis] == size[axis] && end >= x.shape[1 + axis];
    }
    return all;
}

/* Results of y that are a chunk of the forward pass: rows first .. end-1 of an image; all of them,
 * but where images are few, so that there is enough to do. */
typedef struct {
    ptrdiff_t image, first, end;
} window_rows;
static inline ptrdiff_t window_blocks(cn_tensor y, ptrdiff_t n) { return cn_pieces(n, y.shape[1]); }
static inline window_rows window_rows_of(cn_tensor y, ptrdiff_t n, ptrdiff_t chunk) {
    ptrdiff_t blocks = window_blocks(y, n), block = chunk % blocks;
    return (window_rows){chunk / blocks, cn_part(y.shape[1], blocks, block),
                         cn_part(y.shape[1], blocks, block + 1)};
}

static inline ptrdiff_t window_pixels(window o) { return (o.r1 - o.r0) * (o.s1 - o.s0); }

#endif
