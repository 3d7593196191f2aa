#include "global_avg_pool2d.h"

#include "reduce.h"

static const char *check(cn_tensor x, cn_tensor y) {
    if (x.rank != 4 || cn_elements(x) < 1) return "x must have shape (n, h, w, c), none of them 0";
    if (!cn_is(y, 2, x.shape[0], x.shape[3], 1, 1)) return "y must have shape (n, c)";
    return NULL;
}

static const char *forward_check(const void *args) {
    const global_avg_pool2d_forward *a = args;
    return check(a->x, a->y);
}

static ptrdiff_t forward_scratch(const void *args) {
    return ((const global_avg_pool2d_forward *)args)->x.shape[3] * (ptrdiff_t)sizeof(double);
}

/* One chunk an example, both ways. */
static ptrdiff_t chunks(const void *args, ptrdiff_t n) {
    (void)args;
    return n;
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step;
    const global_avg_pool2d_forward *a = args;
    ptrdiff_t pixels = a->x.shape[1] * a->x.shape[2], c = a->x.shape[3];
    double *sum = scratch;
    CN(sum_rows)(sum, (const real *)a->x.data + i * pixels * c, pixels, c);
    real *y = (real *)a->y.data + i * c;
    for (ptrdiff_t j = 0; j < c; j++) y[j] = (real)(sum[j] / (double)pixels);
}

static const char *backward_check(const void *args) {
    const global_avg_pool2d_backward *a = args;
    return check(a->dx, a->dy);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const global_avg_pool2d_backward *a = args;
    ptrdiff_t pixels = a->dx.shape[1] * a->dx.shape[2], c = a->dx.shape[3];
    const real *dy = (const real *)a->dy.data + i * c;
    real *dx = (real *)a->dx.data + i * pixels * c;
    /* The first pixel, and the others like it. */
    V_EACH(j, 0, c, v_store_n(dx + j, v_load_n(dy + j, some) / (real)pixels, some));
    for (ptrdiff_t pixel = 1; pixel < pixels; pixel++)
        V_EACH(j, 0, c, v_store_n(dx + pixel * c + j, v_load_n(dx + j, some), some));
}

#define CN_ARGS_TYPE global_avg_pool2d_forward
static const cn_kernel forward = {
    .name = "global_avg_pool2d_forward",
    .args_size = sizeof(global_avg_pool2d_forward),
    .fields = CN_TABLE(GLOBAL_AVG_POOL2D_FORWARD),
    .check = forward_check,
    .scratch = forward_scratch,
    .stages = {{chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE global_avg_pool2d_backward
static const cn_kernel backward = {
    .name = "global_avg_pool2d_backward",
    .args_size = sizeof(global_avg_pool2d_backward),
    .fields = CN_TABLE(GLOBAL_AVG_POOL2D_BACKWARD),
    .check = backward_check,
    .stages = {{chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(global_avg_pool2d)[] = {&forward, &backward, NULL};
