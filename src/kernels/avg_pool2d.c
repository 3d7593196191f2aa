#include "avg_pool2d.h"

#include "simd.h"
#include "window.h"

static const char *forward_check(const void *args) {
    const avg_pool2d_forward *a = args;
    return window_check(a->x, a->y, a->size, a->stride, a->padding);
}

/* The mean of up to VL channels of a window's pixels in the image. The window begins at `corner`,
 * perhaps outside; it has `pitch` from row to row. The window `below` reals on is asked for: more
 * rows at once than the processor would follow. */
CN_INLINE vec pool(const real *image, ptrdiff_t corner, ptrdiff_t pitch, ptrdiff_t c,
                   ptrdiff_t below, const window o, ptrdiff_t some) {
    vec sum = {0};
    for (ptrdiff_t r = o.r0; r < o.r1; r++) {
        vec row = {0}; /* sums of sums lose less in a large window */
        for (ptrdiff_t s = o.s0; s < o.s1; s++) {
            const real *pixel = image + (corner + r * pitch + s * c);
            row += v_load_n(pixel, some);
            __builtin_prefetch(pixel + below);
        }
        sum += row;
    }
    return sum / (real)window_pixels(o);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return n * window_blocks(((const avg_pool2d_forward *)args)->y, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const avg_pool2d_forward a = *(const avg_pool2d_forward *)args; /* no store can change it */
    ptrdiff_t c = a.x.shape[3], pitch = a.x.shape[2] * c, below = a.stride[0] * pitch;
    window_rows rows = window_rows_of(a.y, step->n, chunk);
    const real *image = (const real *)a.x.data + rows.image * cn_example(a.x);
    real *y = (real *)a.y.data + rows.image * cn_example(a.y) + rows.first * a.y.shape[2] * c;
    for (ptrdiff_t p = rows.first; p < rows.end; p++)
        for (ptrdiff_t q = 0; q < a.y.shape[2]; q++, y += c) {
            window o = window_at(a.x, a.size, a.stride, a.padding, p, q);
            ptrdiff_t corner = o.row * pitch + o.column * c;
            if (whole_2x2(o, a.size))
                V_EACH(j, 0, c, {
                    vec mean = pool(image, corner + j, pitch, c, below, WHOLE_2X2, some);
                    v_store_n(y + j, mean, some);
                });
            else
                V_EACH(j, 0, c, {
                    v_store_n(y + j, pool(image, corner + j, pitch, c, below, o, some), some);
                });
        }
}

/* One chunk an example: windows may overlap, so the rows of dx of one image belong together. */
static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    (void)args;
    return n;
}

static const char *backward_check(const void *args) {
    const avg_pool2d_backward *a = args;
    return window_check(a->dx, a->dy, a->size, a->stride, a->padding);
}

/* Gives a window's pixels in the image the share of up to VL channels, or adds it to theirs. */
CN_INLINE void spread(real *image, ptrdiff_t corner, ptrdiff_t pitch, ptrdiff_t c, const window o,
                      const int add, vec share, ptrdiff_t some, int past) {
    for (ptrdiff_t r = o.r0; r < o.r1; r++)
        for (ptrdiff_t s = o.s0; s < o.s1; s++) {
            real *dx = image + (corner + r * pitch + s * c);
            v_put(dx, add ? (vec)(v_load_n(dx, some) + share) : share, some, past);
        }
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const avg_pool2d_backward a = *(const avg_pool2d_backward *)args; /* no store can change it */
    ptrdiff_t c = a.dx.shape[3], pitch = a.dx.shape[2] * c;
    const real *dy = (const real *)a.dy.data + i * cn_example(a.dy);
    real *dx = (real *)a.dx.data + i * cn_example(a.dx);
    int add = !windows_disjoint(a.size, a.stride);
    int all = windows_cover(a.dx, a.dy, a.size, a.stride, a.padding);
    int past = WHOLE_LINES && !add && all && rows_past_caches(a.dx, a.dy.data);
    if (!all) memset(dx, 0, (size_t)cn_example(a.dx) * sizeof(real));
    for (ptrdiff_t p = 0; p < a.dy.shape[1]; p++)
        for (ptrdiff_t q = 0; q < a.dy.shape[2]; q++, dy += c) {
            window o = window_at(a.dx, a.size, a.stride, a.padding, p, q);
            ptrdiff_t corner = o.row * pitch + o.column * c;
            real pixels = (real)window_pixels(o);
            if (!add && whole_2x2(o, a.size))
                V_EACH(j, 0, c, {
                    vec share = v_load_n(dy + j, some) / 4;
                    spread(dx, corner + j, pitch, c, WHOLE_2X2, 0, share, some, past);
                });
            else
                V_EACH(j, 0, c, {
                    vec share = v_load_n(dy + j, some) / pixels;
                    spread(dx, corner + j, pitch, c, o, add, share, some, past);
                });
        }
}

#define CN_ARGS_TYPE avg_pool2d_forward
static const cn_kernel forward = {
    .name = "avg_pool2d_forward",
    .args_size = sizeof(avg_pool2d_forward),
    .fields = CN_TABLE(AVG_POOL2D_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE avg_pool2d_backward
static const cn_kernel backward = {
    .name = "avg_pool2d_backward",
    .args_size = sizeof(avg_pool2d_backward),
    .fields = CN_TABLE(AVG_POOL2D_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(avg_pool2d)[] = {&forward, &backward, NULL};
