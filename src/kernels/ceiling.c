#include "ceiling.h"

#include "elementwise.h"

/* Chains of multiply-adds side by side: two units with a latency of four or five cycles are busy
 * with ten, and twelve leave room for the factor among 16 registers. */
enum { CHAINS = 12, FMA_CHUNK = CHAINS * VL };

static const char *fma_check(const void *args) {
    const ceiling_fma_forward *a = args;
    if (!elementwise_batch(a->x)) return "x must have at least one element";
    if (!cn_same(a->y, a->x)) return "y must have the shape of x";
    return a->times[0] >= 0 ? NULL : "times must not be negative";
}

static ptrdiff_t fma_chunks(const void *args, ptrdiff_t n) {
    return cn_ceil_div(n * cn_example(((const ceiling_fma_forward *)args)->x), FMA_CHUNK);
}

static void fma_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const ceiling_fma_forward *a = args;
    ptrdiff_t start = chunk * FMA_CHUNK;
    ptrdiff_t count = cn_min(FMA_CHUNK, step->n * cn_example(a->x) - start);
    real buffer[FMA_CHUNK] = {0};
    memcpy(buffer, (const real *)a->x.data + start, (size_t)count * sizeof(real));
    vec y[CHAINS];
    const vec factor = v_set((real)a->factor);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) y[i] = v_load(buffer + i * VL);
    for (ptrdiff_t t = 0; t < a->times[0]; t++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) y[i] += factor * y[i];
    }
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) v_store(buffer + i * VL, y[i]);
    memcpy((real *)a->y.data + start, buffer, (size_t)count * sizeof(real));
}

static const char *copy_check(const void *args) {
    const ceiling_copy_forward *a = args;
    if (!elementwise_batch(a->x)) return "x must have at least one element";
    return cn_same(a->y, a->x) ? NULL : "y must have the shape of x";
}

static ptrdiff_t copy_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const ceiling_copy_forward *)args)->x, n);
}

static void copy_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const ceiling_copy_forward *a = args;
    const real *x = a->x.data;
    real *y = a->y.data;
    int past = a->streaming[0] && v_can_stream(y);
    ELEMENTWISE(a->x, step->n, chunk, v_put(y + i, v_load_n(x + i, some), some, past));
}

static const char *triad_check(const void *args) {
    const ceiling_triad_forward *a = args;
    if (!elementwise_batch(a->x0)) return "x0 must have at least one element";
    if (!cn_same(a->x1, a->x0)) return "x1 must have the shape of x0";
    return cn_same(a->y, a->x0) ? NULL : "y must have the shape of x0";
}

static ptrdiff_t triad_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const ceiling_triad_forward *)args)->x0, n);
}

static void triad_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const ceiling_triad_forward *a = args;
    const real *x0 = a->x0.data, *x1 = a->x1.data;
    real *y = a->y.data;
    const vec factor = v_set((real)a->factor);
    int past = a->streaming[0] && v_can_stream(y);
    ELEMENTWISE(a->x0, step->n, chunk,
                v_put(y + i, v_load_n(x0 + i, some) + factor * v_load_n(x1 + i, some), some, past));
}

#define CN_ARGS_TYPE ceiling_fma_forward
static const cn_kernel fma_forward = {
    .name = "ceiling_fma_forward",
    .args_size = sizeof(ceiling_fma_forward),
    .fields = CN_TABLE(CEILING_FMA_FORWARD),
    .check = fma_check,
    .stages = {{fma_chunks, fma_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE ceiling_copy_forward
static const cn_kernel copy_forward = {
    .name = "ceiling_copy_forward",
    .args_size = sizeof(ceiling_copy_forward),
    .fields = CN_TABLE(CEILING_COPY_FORWARD),
    .check = copy_check,
    .stages = {{copy_chunks, copy_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE ceiling_triad_forward
static const cn_kernel triad_forward = {
    .name = "ceiling_triad_forward",
    .args_size = sizeof(ceiling_triad_forward),
    .fields = CN_TABLE(CEILING_TRIAD_FORWARD),
    .check = triad_check,
    .stages = {{triad_chunks, triad_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(ceiling)[] = {&fma_forward, &copy_forward, &triad_forward, NULL};
