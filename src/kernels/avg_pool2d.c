#include "avg_pool2d.h"

#include "simd.h"
#include "window.h"

static const char *forward_check(const void *args) {
    const avg_pool2d_forward *a = args;
    return window_check(a->x, a->y, a->size, a->stride, a->padding);
}

/* One chunk an example: windows may overlap, so the rows of dx of one image belong together. */
static ptrdiff_t chunks(const void *args, ptrdiff_t n) {
    (void)args;
    return n;
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const avg_pool2d_forward *a = args;
    ptrdiff_t w = a->x.shape[2], c = a->x.shape[3];
    const real *image = (const real *)a->x.data + i * cn_example(a->x);
    real *y = (real *)a->y.data + i * cn_example(a->y);
    for (ptrdiff_t p = 0; p < a->y.shape[1]; p++)
        for (ptrdiff_t q = 0; q < a->y.shape[2]; q++, y += c) {
            window o = window_at(a->x, a->size, a->stride, a->padding, p, q);
            for (ptrdiff_t j = 0; j < c; j += VL) {
                vec sum = {0};
                for (ptrdiff_t r = o.r0; r < o.r1; r++) {
                    vec row = {0}; /* sums of sums lose less in a large window */
                    for (ptrdiff_t s = o.s0; s < o.s1; s++) {
                        const real *pixel = image + ((o.row + r) * w + o.column + s) * c + j;
                        row += v_load_n(pixel, c - j);
                        /* More rows at once than the processor would follow by itself. */
                        __builtin_prefetch(pixel + a->stride[0] * w * c);
                    }
                    sum += row;
                }
                v_store_n(y + j, sum / (real)window_pixels(o), c - j);
            }
        }
}

static const char *backward_check(const void *args) {
    const avg_pool2d_backward *a = args;
    return window_check(a->dx, a->dy, a->size, a->stride, a->padding);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const avg_pool2d_backward *a = args;
    ptrdiff_t w = a->dx.shape[2], c = a->dx.shape[3];
    const real *dy = (const real *)a->dy.data + i * cn_example(a->dy);
    real *dx = (real *)a->dx.data + i * cn_example(a->dx);
    int add = !windows_disjoint(a->size, a->stride);
    int all = windows_cover(a->dx, a->dy, a->size, a->stride, a->padding);
    int past = WHOLE_LINES && !add && all && rows_past_caches(a->dx, a->dy.data);
    if (!all) memset(dx, 0, (size_t)cn_example(a->dx) * sizeof(real));
    for (ptrdiff_t p = 0; p < a->dy.shape[1]; p++)
        for (ptrdiff_t q = 0; q < a->dy.shape[2]; q++, dy += c) {
            window o = window_at(a->dx, a->size, a->stride, a->padding, p, q);
            for (ptrdiff_t j = 0; j < c; j += VL) {
                vec share = v_load_n(dy + j, c - j) / (real)window_pixels(o);
                for (ptrdiff_t r = o.r0; r < o.r1; r++)
                    for (ptrdiff_t s = o.s0; s < o.s1; s++) {
                        real *pixel = dx + ((o.row + r) * w + o.column + s) * c + j;
                        v_put(pixel, add ? (vec)(v_load_n(pixel, c - j) + share) : share, c - j,
                              past);
                    }
            }
        }
}

#define CN_ARGS_TYPE avg_pool2d_forward
static const cn_kernel forward = {
    .name = "avg_pool2d_forward",
    .args_size = sizeof(avg_pool2d_forward),
    .fields = CN_TABLE(AVG_POOL2D_FORWARD),
    .check = forward_check,
    .stages = {{chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE avg_pool2d_backward
static const cn_kernel backward = {
    .name = "avg_pool2d_backward",
    .args_size = sizeof(avg_pool2d_backward),
    .fields = CN_TABLE(AVG_POOL2D_BACKWARD),
    .check = backward_check,
    .stages = {{chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(avg_pool2d)[] = {&forward, &backward, NULL};
