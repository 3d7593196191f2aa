#include "softmax_cross_entropy.h"

#include "loss.h"
#include "vmath.h"

static const char *check(cn_tensor x, cn_tensor y) {
    if (x.rank != 2 || cn_elements(x) < 1) return "x must have shape (n, classes), none of them 0";
    if (!cn_same(y, x)) return "the result must have the shape of x";
    return NULL;
}

/* prob of one row; returns log(sum of exp(x - max)) + max, or NaN where that is not finite. */
static double row_softmax(const real *x, real *prob, ptrdiff_t classes) {
    real largest = x[0];
    for (ptrdiff_t j = 1; j < classes; j++) largest = x[j] > largest ? x[j] : largest;
    double lanes[VL] = {0}, sum = 0;
    for (ptrdiff_t j = 0; j < classes; j += VL) {
        ptrdiff_t some = cn_min(VL, classes - j);
        vec e = v_exp(v_load_n(x + j, some) - largest);
        v_store_n(prob + j, e, some);
        v_add_double(lanes, e, some);
    }
    for (int i = 0; i < VL; i++) sum += lanes[i];
    const real scale = (real)(1 / sum);
    for (ptrdiff_t j = 0; j < classes; j += VL)
        v_store_n(prob + j, v_load_n(prob + j, classes - j) * scale, classes - j);
    return sum >= 1 && sum <= DBL_MAX ? cn_log(sum) + (double)largest : __builtin_nan("");
}

static const char *softmax_check(const void *args) {
    const softmax_forward *a = args;
    return check(a->x, a->y);
}

static ptrdiff_t softmax_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const softmax_forward *)args)->x, n);
}

static void softmax_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const softmax_forward *a = args;
    ptrdiff_t classes = a->x.shape[1], block = loss_block(a->x);
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++)
        row_softmax((const real *)a->x.data + i * classes, (real *)a->y.data + i * classes,
                    classes);
}

static const char *forward_check(const void *args) {
    const softmax_cross_entropy_forward *a = args;
    const char *wrong = check(a->x, a->prob);
    if (wrong) return wrong;
    if (!cn_is(a->target, 1, a->x.shape[0], 1, 1, 1)) return "target must have shape (n,)";
    if (!cn_optional(a->weight, 1, a->x.shape[0], 1, 1, 1)) return "weight must have shape (n,)";
    if (!cn_is(a->loss, 0, 1, 1, 1, 1)) return "loss must be a scalar";
    return NULL;
}

static ptrdiff_t forward_workspace(const void *args) {
    return loss_workspace(((const softmax_cross_entropy_forward *)args)->x);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const softmax_cross_entropy_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const softmax_cross_entropy_forward *a = args;
    ptrdiff_t classes = a->x.shape[1], block = loss_block(a->x);
    const int64_t *target = a->target.data;
    double loss = 0;
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *x = (const real *)a->x.data + i * classes;
        double log_sum = row_softmax(x, (real *)a->prob.data + i * classes, classes);
        if (target[i] < 0 || target[i] >= classes)
            cn_fail(step, CN_BAD_LABEL);
        else
            loss += (log_sum - (double)x[target[i]]) * (double)loss_weight(a->weight, i);
    }
    ((double *)a->head.workspace)[chunk] = loss;
}

static void forward_add(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)chunk, (void)scratch;
    const softmax_cross_entropy_forward *a = args;
    loss_add(a->head.workspace, loss_blocks(a->x, step->n), step->n, a->loss);
}

static const char *backward_check(const void *args) {
    const softmax_cross_entropy_backward *a = args;
    const char *wrong = check(a->prob, a->dx);
    if (wrong) return wrong;
    if (!cn_is(a->target, 1, a->prob.shape[0], 1, 1, 1)) return "target must have shape (n,)";
    if (!cn_optional(a->weight, 1, a->prob.shape[0], 1, 1, 1)) return "weight must have shape (n,)";
    return NULL;
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const softmax_cross_entropy_backward *)args)->prob, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const softmax_cross_entropy_backward *a = args;
    ptrdiff_t classes = a->prob.shape[1], block = loss_block(a->prob);
    const int64_t *target = a->target.data;
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *prob = (const real *)a->prob.data + i * classes;
        real *dx = (real *)a->dx.data + i * classes;
        if (target[i] < 0 || target[i] >= classes) {
            cn_fail(step, CN_BAD_LABEL);
            continue;
        }
        const real scale = (real)((double)loss_weight(a->weight, i) / (double)step->n);
        real right = prob[target[i]];
        for (ptrdiff_t j = 0; j < classes; j += VL)
            v_store_n(dx + j, v_load_n(prob + j, classes - j) * scale, classes - j);
        dx[target[i]] = (right - 1) * scale;
    }
}

#define CN_ARGS_TYPE softmax_forward
static const cn_kernel softmax = {
    .name = "softmax_forward",
    .args_size = sizeof(softmax_forward),
    .fields = CN_TABLE(SOFTMAX_FORWARD),
    .check = softmax_check,
    .stages = {{softmax_chunks, softmax_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE softmax_cross_entropy_forward
static const cn_kernel forward = {
    .name = "softmax_cross_entropy_forward",
    .args_size = sizeof(softmax_cross_entropy_forward),
    .fields = CN_TABLE(SOFTMAX_CROSS_ENTROPY_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{forward_chunks, forward_run}, {loss_one_chunk, forward_add}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE softmax_cross_entropy_backward
static const cn_kernel backward = {
    .name = "softmax_cross_entropy_backward",
    .args_size = sizeof(softmax_cross_entropy_backward),
    .fields = CN_TABLE(SOFTMAX_CROSS_ENTROPY_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(softmax_cross_entropy)[] = {&softmax, &forward, &backward, NULL};
