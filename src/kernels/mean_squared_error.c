#include "mean_squared_error.h"

#include "loss.h"

static const char *check(cn_tensor x, cn_tensor target, cn_tensor weight) {
    const char *wrong = loss_check(x, weight);
    if (wrong) return wrong;
    if (!cn_same(target, x)) return "target must have the shape of x";
    return NULL;
}

static const char *forward_check(const void *args) {
    const mean_squared_error_forward *a = args;
    if (!cn_is(a->loss, 0, 1, 1, 1, 1)) return "loss must be a scalar";
    return check(a->x, a->target, a->weight);
}

static ptrdiff_t forward_workspace(const void *args) {
    return loss_workspace(((const mean_squared_error_forward *)args)->x);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const mean_squared_error_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const mean_squared_error_forward *a = args;
    ptrdiff_t m = a->x.shape[1], block = loss_block(a->x);
    double sum = 0;
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *x = (const real *)a->x.data + i * m;
        const real *target = (const real *)a->target.data + i * m;
        double squares = 0;
        for (ptrdiff_t j = 0; j < m; j++) {
            double difference = (double)x[j] - (double)target[j];
            squares += difference * difference;
        }
        sum += squares / (double)m * (double)loss_weight(a->weight, i);
    }
    ((double *)a->head.workspace)[chunk] = sum;
}

static void forward_add(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)chunk, (void)scratch;
    const mean_squared_error_forward *a = args;
    loss_add(a->head.workspace, loss_blocks(a->x, step->n), step->n, a->loss);
}

static const char *backward_check(const void *args) {
    const mean_squared_error_backward *a = args;
    if (!cn_same(a->dx, a->x)) return "dx must have the shape of x";
    return check(a->x, a->target, a->weight);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const mean_squared_error_backward *)args)->x, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const mean_squared_error_backward *a = args;
    ptrdiff_t m = a->x.shape[1], block = loss_block(a->x);
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *x = (const real *)a->x.data + i * m;
        const real *target = (const real *)a->target.data + i * m;
        real *dx = (real *)a->dx.data + i * m;
        double weight = (double)loss_weight(a->weight, i);
        const real scale = (real)(2 * weight / ((double)step->n * (double)m));
        V_EACH(
            j, 0, m,
            v_store_n(dx + j, scale * (v_load_n(x + j, some) - v_load_n(target + j, some)), some));
    }
}

#define CN_ARGS_TYPE mean_squared_error_forward
static const cn_kernel forward = {
    .name = "mean_squared_error_forward",
    .args_size = sizeof(mean_squared_error_forward),
    .fields = CN_TABLE(MEAN_SQUARED_ERROR_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{forward_chunks, forward_run}, {loss_one_chunk, forward_add}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE mean_squared_error_backward
static const cn_kernel backward = {
    .name = "mean_squared_error_backward",
    .args_size = sizeof(mean_squared_error_backward),
    .fields = CN_TABLE(MEAN_SQUARED_ERROR_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(mean_squared_error)[] = {&forward, &backward, NULL};
