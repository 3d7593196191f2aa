#include "elu.h"

#include "elementwise.h"
#include "vmath.h"

static const char *alpha_check(double alpha) {
    return alpha >= 0 && alpha <= 1e6 ? NULL : "alpha must lie in [0, 1e6]";
}

static const char *forward_check(const void *args) {
    const elu_forward *a = args;
    if (!elementwise_batch(a->x)) return "x must have at least one element";
    if (!cn_same(a->y, a->x)) return "y must have the shape of x";
    return alpha_check(a->alpha);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const elu_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const elu_forward *a = args;
    const real *x = a->x.data, alpha = (real)a->alpha;
    real *y = a->y.data;
    int past = past_caches(a->y, x);
    ELEMENTWISE(a->x, step->n, chunk, {
        vec v = v_load_n(x + i, some);
        vec below = alpha * v_expm1(v_at_least(v_at_most(v, 0), -40));
        v_put(y + i, v_select(v > 0, v, below), some, past);
    });
}

static const char *backward_check(const void *args) {
    const elu_backward *a = args;
    if (!elementwise_batch(a->y)) return "y must have at least one element";
    if (!cn_same(a->dy, a->y)) return "dy must have the shape of y";
    if (!cn_same(a->dx, a->y)) return "dx must have the shape of y";
    return alpha_check(a->alpha);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const elu_backward *)args)->y, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const elu_backward *a = args;
    const real *y = a->y.data, *dy = a->dy.data, alpha = (real)a->alpha;
    real *dx = a->dx.data;
    int past = past_caches(a->dx, dy);
    ELEMENTWISE(a->y, step->n, chunk, {
        vec g = v_load_n(dy + i, some), v = v_load_n(y + i, some);
        v_put(dx + i, v_select(v > 0, g, g * (v + alpha)), some, past);
    });
}

#define CN_ARGS_TYPE elu_forward
static const cn_kernel forward = {
    .name = "elu_forward",
    .args_size = sizeof(elu_forward),
    .fields = CN_TABLE(ELU_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE elu_backward
static const cn_kernel backward = {
    .name = "elu_backward",
    .args_size = sizeof(elu_backward),
    .fields = CN_TABLE(ELU_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(elu)[] = {&forward, &backward, NULL};
