#include "multiclass_hinge.h"

#include "loss.h"

static const char *check(cn_tensor x, cn_tensor target, cn_tensor weight) {
    const char *wrong = loss_check(x, weight);
    if (wrong) return wrong;
    if (!cn_is(target, 1, x.shape[0], 1, 1, 1)) return "target must have shape (n,)";
    return NULL;
}

static const char *forward_check(const void *args) {
    const multiclass_hinge_forward *a = args;
    if (!cn_is(a->loss, 0, 1, 1, 1, 1)) return "loss must be a scalar";
    return check(a->x, a->target, a->weight);
}

static ptrdiff_t forward_workspace(const void *args) {
    return loss_workspace(((const multiclass_hinge_forward *)args)->x);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const multiclass_hinge_forward *)args)->x, n);
}

/* Margins of VL scores: zero where they are met. The target's own is 1, which the caller takes
 * off, in the loss as in the gradient. */
CN_INLINE vec margins(const real *x, ptrdiff_t some, real right) {
    return v_load_n(x, some) - right + 1;
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const multiclass_hinge_forward *a = args;
    ptrdiff_t classes = a->x.shape[1], block = loss_block(a->x);
    double sum = 0;
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *x = (const real *)a->x.data + i * classes;
        int64_t target = ((const int64_t *)a->target.data)[i];
        if (target < 0 || target >= classes) {
            cn_fail(step, CN_BAD_LABEL);
            continue;
        }
        double lanes[VL] = {0}, loss = -1;
        for (ptrdiff_t j = 0; j < classes; j += VL) {
            vec margin = margins(x + j, classes - j, x[target]);
            v_add_double(lanes, v_relu(margin), classes - j);
        }
        for (int lane = 0; lane < VL; lane++) loss += lanes[lane];
        sum += loss * (double)loss_weight(a->weight, i);
    }
    ((double *)a->head.workspace)[chunk] = sum;
}

static void forward_add(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)chunk, (void)scratch;
    const multiclass_hinge_forward *a = args;
    loss_add(a->head.workspace, loss_blocks(a->x, step->n), step->n, a->loss);
}

static const char *backward_check(const void *args) {
    const multiclass_hinge_backward *a = args;
    if (!cn_same(a->dx, a->x)) return "dx must have the shape of x";
    return check(a->x, a->target, a->weight);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return loss_blocks(((const multiclass_hinge_backward *)args)->x, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const multiclass_hinge_backward *a = args;
    ptrdiff_t classes = a->x.shape[1], block = loss_block(a->x);
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        const real *x = (const real *)a->x.data + i * classes;
        real *dx = (real *)a->dx.data + i * classes;
        int64_t target = ((const int64_t *)a->target.data)[i];
        if (target < 0 || target >= classes) {
            cn_fail(step, CN_BAD_LABEL);
            continue;
        }
        const real right = x[target];
        const real scale = (real)((double)loss_weight(a->weight, i) / (double)step->n);
        ptrdiff_t violated = -1; /* the target's own margin is always positive */
        for (ptrdiff_t j = 0; j < classes; j += VL) {
            ivec over = margins(x + j, classes - j, right) > 0;
            v_store_n(dx + j, v_select(over, v_set(scale), (vec){0}), classes - j);
            for (ptrdiff_t lane = 0; lane < cn_min(VL, classes - j); lane++)
                violated += over[lane] != 0;
        }
        dx[target] = -(real)violated * scale;
    }
}

#define CN_ARGS_TYPE multiclass_hinge_forward
static const cn_kernel forward = {
    .name = "multiclass_hinge_forward",
    .args_size = sizeof(multiclass_hinge_forward),
    .fields = CN_TABLE(MULTICLASS_HINGE_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{forward_chunks, forward_run}, {loss_one_chunk, forward_add}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE multiclass_hinge_backward
static const cn_kernel backward = {
    .name = "multiclass_hinge_backward",
    .args_size = sizeof(multiclass_hinge_backward),
    .fields = CN_TABLE(MULTICLASS_HINGE_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(multiclass_hinge)[] = {&forward, &backward, NULL};
