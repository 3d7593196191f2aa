#include "concat.h"

#include "elementwise.h"

static int whole(cn_tensor y) { return (y.rank == 2 || y.rank == 4) && cn_elements(y) >= 1; }

/* Channels that a part takes of the whole; 0 if it differs from the whole in anything else. */
static ptrdiff_t channels_of(cn_tensor part, cn_tensor y) {
    if (part.rank != y.rank) return 0;
    for (int axis = 0; axis < y.rank - 1; axis++)
        if (part.shape[axis] != y.shape[axis]) return 0;
    ptrdiff_t c = cn_channels(part);
    return c > 0 && c < cn_channels(y) ? c : 0;
}

/* A chunk is so many whole rows of channels, at least one. */
static ptrdiff_t rows_a_chunk(cn_tensor y) { return cn_max(ELEMENTWISE_CHUNK / cn_channels(y), 1); }
static ptrdiff_t row_chunks(cn_tensor y, ptrdiff_t n) {
    return cn_ceil_div(cn_rows(y, n), rows_a_chunk(y));
}

/* `c` elements of each row, between matrices whose rows are so far apart. */
static void copy(real *to, ptrdiff_t to_pitch, const real *from, ptrdiff_t from_pitch, ptrdiff_t c,
                 ptrdiff_t rows) {
    for (ptrdiff_t i = 0; i < rows; i++)
        memcpy(to + i * to_pitch, from + i * from_pitch, (size_t)c * sizeof(real));
}

static const char *forward_check(const void *args) {
    const concat_forward *a = args;
    if (!whole(a->y)) return "y must have shape (n, c) or (n, h, w, c), none of them 0";
    ptrdiff_t c0 = channels_of(a->x0, a->y), c1 = channels_of(a->x1, a->y);
    if (!c0) return "x0 must have the shape of y but for fewer channels";
    if (!c1) return "x1 must have the shape of y but for fewer channels";
    if (c0 + c1 != cn_channels(a->y)) return "y must have the channels of x0 and x1 together";
    return NULL;
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return row_chunks(((const concat_forward *)args)->y, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const concat_forward *a = args;
    ptrdiff_t first = chunk * rows_a_chunk(a->y);
    ptrdiff_t rows = cn_min(rows_a_chunk(a->y), cn_rows(a->y, step->n) - first);
    ptrdiff_t c = cn_channels(a->y), c0 = cn_channels(a->x0), c1 = cn_channels(a->x1);
    real *y = (real *)a->y.data + first * c;
    copy(y, c, (const real *)a->x0.data + first * c0, c0, c0, rows);
    copy(y + c0, c, (const real *)a->x1.data + first * c1, c1, c1, rows);
}

static const char *backward_check(const void *args) {
    const concat_backward *a = args;
    if (!whole(a->dy)) return "dy must have shape (n, c) or (n, h, w, c), none of them 0";
    int both = cn_present(a->dx0) && cn_present(a->dx1);
    if (!cn_present(a->dx0) && !cn_present(a->dx1)) return "dx0 or dx1 must be there";
    if (cn_present(a->dx0) && !channels_of(a->dx0, a->dy))
        return "dx0 must have the shape of dy but for fewer channels";
    if (cn_present(a->dx1) && !channels_of(a->dx1, a->dy))
        return "dx1 must have the shape of dy but for fewer channels";
    if (both && cn_channels(a->dx0) + cn_channels(a->dx1) != cn_channels(a->dy))
        return "dy must have the channels of dx0 and dx1 together";
    return NULL;
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return row_chunks(((const concat_backward *)args)->dy, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const concat_backward *a = args;
    ptrdiff_t first = chunk * rows_a_chunk(a->dy);
    ptrdiff_t rows = cn_min(rows_a_chunk(a->dy), cn_rows(a->dy, step->n) - first);
    ptrdiff_t c = cn_channels(a->dy);
    const real *dy = (const real *)a->dy.data + first * c;
    if (cn_present(a->dx0)) {
        ptrdiff_t c0 = cn_channels(a->dx0);
        copy((real *)a->dx0.data + first * c0, c0, dy, c, c0, rows);
    }
    if (cn_present(a->dx1)) {
        ptrdiff_t c1 = cn_channels(a->dx1);
        copy((real *)a->dx1.data + first * c1, c1, dy + c - c1, c, c1, rows);
    }
}

#define CN_ARGS_TYPE concat_forward
static const cn_kernel forward = {
    .name = "concat_forward",
    .args_size = sizeof(concat_forward),
    .fields = CN_TABLE(CONCAT_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE concat_backward
static const cn_kernel backward = {
    .name = "concat_backward",
    .args_size = sizeof(concat_backward),
    .fields = CN_TABLE(CONCAT_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(concat)[] = {&forward, &backward, NULL};
