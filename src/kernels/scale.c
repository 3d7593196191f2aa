#include "scale.h"

#include "elementwise.h"

static const char *check(cn_tensor in, cn_tensor out, double factor) {
    if (!elementwise_batch(in)) return "the input must have at least one element";
    if (!cn_same(out, in)) return "the result must have the shape of the input";
    return factor > 0 && factor <= 1 ? NULL : "factor must lie in (0, 1]";
}

static void multiply(cn_tensor in, cn_tensor out, double factor, ptrdiff_t n, ptrdiff_t chunk) {
    const real *x = in.data, by = (real)factor;
    real *y = out.data;
    int past = past_caches(out, x);
    ELEMENTWISE(in, n, chunk, v_put(y + i, by * v_load_n(x + i, some), some, past));
}

static const char *forward_check(const void *args) {
    const scale_forward *a = args;
    return check(a->x, a->y, a->factor);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const scale_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const scale_forward *a = args;
    multiply(a->x, a->y, a->factor, step->n, chunk);
}

static const char *backward_check(const void *args) {
    const scale_backward *a = args;
    return check(a->dy, a->dx, a->factor);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const scale_backward *)args)->dy, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const scale_backward *a = args;
    multiply(a->dy, a->dx, a->factor, step->n, chunk);
}

#define CN_ARGS_TYPE scale_forward
static const cn_kernel forward = {
    .name = "scale_forward",
    .args_size = sizeof(scale_forward),
    .fields = CN_TABLE(SCALE_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE scale_backward
static const cn_kernel backward = {
    .name = "scale_backward",
    .args_size = sizeof(scale_backward),
    .fields = CN_TABLE(SCALE_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(scale)[] = {&forward, &backward, NULL};
