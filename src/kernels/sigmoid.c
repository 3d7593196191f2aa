#include "sigmoid.h"

#include "elementwise.h"
#include "vmath.h"

static const char *forward_check(const void *args) {
    const sigmoid_forward *a = args;
    if (!elementwise_batch(a->x)) return "x must have at least one element";
    if (!cn_same(a->y, a->x)) return "y must have the shape of x";
    return NULL;
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const sigmoid_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const sigmoid_forward *a = args;
    const real *x = a->x.data;
    real *y = a->y.data;
    int past = past_caches(a->y, x);
    ELEMENTWISE(a->x, step->n, chunk, {
        vec e = v_exp(v_at_most(-v_load_n(x + i, some), EXP_MOST));
        v_put(y + i, 1 / (1 + e), some, past);
    });
}

static const char *backward_check(const void *args) {
    const sigmoid_backward *a = args;
    if (!elementwise_batch(a->y)) return "y must have at least one element";
    if (!cn_same(a->dy, a->y)) return "dy must have the shape of y";
    if (!cn_same(a->dx, a->y)) return "dx must have the shape of y";
    return NULL;
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const sigmoid_backward *)args)->y, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const sigmoid_backward *a = args;
    const real *y = a->y.data, *dy = a->dy.data;
    real *dx = a->dx.data;
    int past = past_caches(a->dx, dy);
    ELEMENTWISE(a->y, step->n, chunk, {
        vec v = v_load_n(y + i, some);
        v_put(dx + i, v_load_n(dy + i, some) * (v * (1 - v)), some, past);
    });
}

#define CN_ARGS_TYPE sigmoid_forward
static const cn_kernel forward = {
    .name = "sigmoid_forward",
    .args_size = sizeof(sigmoid_forward),
    .fields = CN_TABLE(SIGMOID_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE sigmoid_backward
static const cn_kernel backward = {
    .name = "sigmoid_backward",
    .args_size = sizeof(sigmoid_backward),
    .fields = CN_TABLE(SIGMOID_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(sigmoid)[] = {&forward, &backward, NULL};
