#include "leaky_relu.h"

#include "elementwise.h"

static const char *slope_check(double slope) {
    return slope >= 0 && slope < 1 ? NULL : "slope must lie in [0, 1)";
}

static const char *forward_check(const void *args) {
    const leaky_relu_forward *a = args;
    if (!elementwise_batch(a->x)) return "x must have at least one element";
    if (!cn_same(a->y, a->x)) return "y must have the shape of x";
    return slope_check(a->slope);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const leaky_relu_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const leaky_relu_forward *a = args;
    const real *x = a->x.data, slope = (real)a->slope;
    real *y = a->y.data;
    int past = past_caches(a->y, x);
    ELEMENTWISE(a->x, step->n, chunk, {
        vec v = v_load_n(x + i, some);
        v_put(y + i, v_select(v < 0, slope * v, v), some, past);
    });
}

static const char *backward_check(const void *args) {
    const leaky_relu_backward *a = args;
    if (!elementwise_batch(a->y)) return "y must have at least one element";
    if (!cn_same(a->dy, a->y)) return "dy must have the shape of y";
    if (!cn_same(a->dx, a->y)) return "dx must have the shape of y";
    return slope_check(a->slope);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const leaky_relu_backward *)args)->y, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const leaky_relu_backward *a = args;
    const real *y = a->y.data, *dy = a->dy.data, slope = (real)a->slope;
    real *dx = a->dx.data;
    int past = past_caches(a->dx, dy);
    ELEMENTWISE(a->y, step->n, chunk, {
        vec g = v_load_n(dy + i, some);
        v_put(dx + i, v_select(v_load_n(y + i, some) > 0, g, slope * g), some, past);
    });
}

#define CN_ARGS_TYPE leaky_relu_forward
static const cn_kernel forward = {
    .name = "leaky_relu_forward",
    .args_size = sizeof(leaky_relu_forward),
    .fields = CN_TABLE(LEAKY_RELU_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE leaky_relu_backward
static const cn_kernel backward = {
    .name = "leaky_relu_backward",
    .args_size = sizeof(leaky_relu_backward),
    .fields = CN_TABLE(LEAKY_RELU_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(leaky_relu)[] = {&forward, &backward, NULL};
