#include "add.h"

#include "elementwise.h"

static const char *forward_check(const void *args) {
    const add_forward *a = args;
    if (!elementwise_batch(a->x0)) return "x0 must have at least one element";
    if (!cn_same(a->x1, a->x0)) return "x1 must have the shape of x0";
    if (!cn_same(a->y, a->x0)) return "y must have the shape of x0";
    return NULL;
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const add_forward *)args)->x0, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const add_forward *a = args;
    const real *x0 = a->x0.data, *x1 = a->x1.data;
    real *y = a->y.data;
    int past = past_caches(a->y, x0) && y != x1;
    ELEMENTWISE(a->x0, step->n, chunk, {
        vec out = v_load_n(x0 + i, some) + v_load_n(x1 + i, some);
        if (a->relu) out = v_relu(out);
        v_put(y + i, out, some, past);
    });
}

static const char *backward_check(const void *args) {
    const add_backward *a = args;
    if (!elementwise_batch(a->dy)) return "dy must have at least one element";
    if (cn_present(a->dx0) && !cn_same(a->dx0, a->dy)) return "dx0 must have the shape of dy";
    if (cn_present(a->dx1) && !cn_same(a->dx1, a->dy)) return "dx1 must have the shape of dy";
    return NULL;
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const add_backward *)args)->dy, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const add_backward *a = args;
    ptrdiff_t i = chunk * ELEMENTWISE_CHUNK;
    size_t bytes = (size_t)(elementwise_end(a->dy, step->n, chunk) - i) * sizeof(real);
    const real *dy = (const real *)a->dy.data + i;
    real *dx0 = a->dx0.data, *dx1 = a->dx1.data;
    if (dx0) memmove(dx0 + i, dy, bytes);
    if (dx1) memmove(dx1 + i, dy, bytes);
}

#define CN_ARGS_TYPE add_forward
static const cn_kernel forward = {
    .name = "add_forward",
    .args_size = sizeof(add_forward),
    .fields = CN_TABLE(ADD_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE add_backward
static const cn_kernel backward = {
    .name = "add_backward",
    .args_size = sizeof(add_backward),
    .fields = CN_TABLE(ADD_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(add)[] = {&forward, &backward, NULL};
