#include "relu.h"

#include "elementwise.h"

static const char *forward_check(const void *args) {
    const relu_forward *a = args;
    if (!elementwise_batch(a->x)) return "x must have at least one element";
    if (!cn_same(a->y, a->x)) return "y must have the shape of x";
    return NULL;
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const relu_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const relu_forward *a = args;
    const real *x = a->x.data;
    real *y = a->y.data;
    int past = past_caches(a->y, x);
    ELEMENTWISE(a->x, step->n, chunk, v_put(y + i, v_relu(v_load_n(x + i, some)), some, past));
}

static const char *backward_check(const void *args) {
    const relu_backward *a = args;
    if (!elementwise_batch(a->y)) return "y must have at least one element";
    if (!cn_same(a->dy, a->y)) return "dy must have the shape of y";
    if (cn_present(a->dy1) && !cn_same(a->dy1, a->y)) return "dy1 must have the shape of y";
    if (!cn_same(a->dx, a->y)) return "dx must have the shape of y";
    return NULL;
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const relu_backward *)args)->y, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const relu_backward *a = args;
    const real *y = a->y.data, *dy = a->dy.data, *dy1 = a->dy1.data;
    real *dx = a->dx.data;
    int past = past_caches(a->dx, dy);
    ELEMENTWISE(a->y, step->n, chunk, {
        ivec on = v_load_n(y + i, some) > 0;
        vec g = v_load_n(dy + i, some);
        if (dy1) g += v_load_n(dy1 + i, some);
        v_put(dx + i, v_select(on, g, (vec){0}), some, past);
    });
}

#define CN_ARGS_TYPE relu_forward
static const cn_kernel forward = {
    .name = "relu_forward",
    .args_size = sizeof(relu_forward),
    .fields = CN_TABLE(RELU_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE relu_backward
static const cn_kernel backward = {
    .name = "relu_backward",
    .args_size = sizeof(relu_backward),
    .fields = CN_TABLE(RELU_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(relu)[] = {&forward, &backward, NULL};
