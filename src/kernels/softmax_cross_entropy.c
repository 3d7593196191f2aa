#include "softmax_cross_entropy.h"

#include "loss.h"
#include "vmath.h"

static const char *check(cn_tensor x, cn_tensor y) {
    if (x.rank != 2 || cn_elements(x) < 1) return "x must have shape (n, classes), none of them 0";
    if (!cn_same(y, x)) return "the result must have the shape of x";
    return NULL;
}

CN_INLINE vec larger(vec v, vec best) { return v_select(v > best, v, best); }

/* The largest of a row; of a row with NaN, any of its values. */
CN_INLINE real row_largest(const real *x, ptrdiff_t classes) {
    enum { CHAINS = 4 }; /* one comparison waits for the one before */
    vec best[CHAINS];
    ptrdiff_t j = 0;
    for (int i = 0; i < CHAINS; i++) best[i] = v_set(x[0]);
    for (; j + CHAINS * VL <= classes; j += CHAINS * VL)
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; i++) best[i] = larger(v_load(x + j + i * VL), best[i]);
    for (; j < classes; j += VL) {
        ivec inside = v_lanes() < (bits)cn_min(VL, classes - j);
        best[0] = larger(v_select(inside, v_load_n(x + j, classes - j), best[0]), best[0]);
    }
#pragma GCC unroll 4
    for (int i = 1; i < CHAINS; i++) best[0] = larger(best[i], best[0]);
#pragma GCC unroll 4
    for (int apart = VL / 2; apart > 0; apart /= 2)
        best[0] = larger(v_shuffle(best[0], best[0], v_lanes() ^ apart), best[0]);
    return best[0][0];
}

static double finite_sum(double sum) {
    return sum >= 1 && sum <= DBL_MAX ? sum : __builtin_nan("");
}

/* prob, not divided yet, of up to VL classes of a row, and its sum. */
CN_INLINE void exponentials(const real *x, real *prob, ptrdiff_t some, real top,
                            wide total[WIDES]) {
    wide part[WIDES];
    vec e = v_exp(v_load_n(x, some) - top); /* of at most 0, but for what is dropped below */
    v_store_n(prob, e, some);
    if (some < VL) e = v_select(v_lanes() < (bits)some, e, (vec){0});
    v_widen(e, part);
    for (int i = 0; i < WIDES; i++) total[i] += part[i];
}

/* prob of one row, and the two parts of log(sum of exp(x)): the largest, and the sum relative to
 * it, which is NaN where it is not finite. */
CN_INLINE void row_softmax(const real *x, real *prob, ptrdiff_t classes, double *largest,
                           double *sum) {
    const real top = row_largest(x, classes);
    wide total[WIDES] = {{0}};
    V_EACH(j, 0, classes, exponentials(x + j, prob + j, some, top, total));
    for (int i = 1; i < WIDES; i++) total[0] += total[i];
    double lanes[VL / WIDES];
    memcpy(lanes, total, sizeof lanes);
#pragma GCC unroll 3
    for (int half = VL / WIDES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    const real scale = (real)(1 / lanes[0]);
    V_EACH(j, 0, classes, v_store_n(prob + j, v_load_n(prob + j, some) * scale, some));
    *largest = (double)top;
    *sum = finite_sum(lanes[0]);
}

/* The same for up to VL rows of few classes, a row a lane. */
enum { FEW_CLASSES = CN_VECTOR_BYTES == 64 ? VL : 2 * VL };
static void narrow_softmax(const real *x, real *prob, ptrdiff_t rows, ptrdiff_t classes,
                           double *largest, double *sum) {
    vec v[VL], columns[FEW_CLASSES];
    if (classes < 1) __builtin_unreachable(); /* or compilers warn of no columns */
    for (ptrdiff_t j = 0; j < classes; j += VL) {
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            v[i] = i < rows ? v_load_n(x + i * classes + j, classes - j) : (vec){0};
        v_transpose(v);
        memcpy(columns + j, v, sizeof v);
    }
    vec top = columns[0];
    for (ptrdiff_t j = 1; j < classes; j++) top = larger(columns[j], top);
    wide total[WIDES] = {{0}}, part[WIDES];
    for (ptrdiff_t j = 0; j < classes; j++) {
        columns[j] = v_exp(columns[j] - top);
        v_widen(columns[j], part);
        for (int i = 0; i < WIDES; i++) total[i] += part[i];
    }
    double sums[VL];
    memcpy(sums, total, sizeof sums);
    real scale[VL];
    for (int i = 0; i < VL; i++) scale[i] = (real)(1 / sums[i]);
    for (ptrdiff_t j = 0; j < classes; j++) columns[j] *= v_load(scale);
    for (ptrdiff_t j = 0; j < classes; j += VL) {
        memcpy(v, columns + j, sizeof v);
        v_transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            if (i < rows) v_store_n(prob + i * classes + j, v[i], classes - j);
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        largest[i] = (double)top[i];
        sum[i] = finite_sum(sums[i]);
    }
}

/* The same for any number of rows. */
static void rows_softmax(const real *x, real *prob, ptrdiff_t rows, ptrdiff_t classes,
                         double *largest, double *sum) {
    ptrdiff_t at_once = classes <= FEW_CLASSES ? VL : 1;
    for (ptrdiff_t i = 0; i < rows; i += at_once) {
        const real *from = x + i * classes;
        real *to = prob + i * classes;
        if (classes <= FEW_CLASSES)
            narrow_softmax(from, to, cn_min(VL, rows - i), classes, largest + i, sum + i);
        else
            row_softmax(from, to, classes, largest + i, sum + i);
    }
}

/* Rows whose logarithms are taken together. */
enum { ROWS = 32 };

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
    double largest[ROWS], sum[ROWS];
    ptrdiff_t end = cn_min(step->n, (chunk + 1) * block);
    for (ptrdiff_t i = chunk * block; i < end; i += ROWS)
        rows_softmax((const real *)a->x.data + i * classes, (real *)a->y.data + i * classes,
                     cn_min(ROWS, end - i), classes, largest, sum);
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
    double loss = 0, largest[ROWS], sum[ROWS];
    ptrdiff_t end = cn_min(step->n, (chunk + 1) * block);
    for (ptrdiff_t first = chunk * block; first < end; first += ROWS) {
        ptrdiff_t rows = cn_min(ROWS, end - first);
        const real *x = (const real *)a->x.data + first * classes;
        rows_softmax(x, (real *)a->prob.data + first * classes, rows, classes, largest, sum);
        for (ptrdiff_t i = 0; i < rows; i++) sum[i] = sum[i] == sum[i] ? cn_log(sum[i]) : sum[i];
        for (ptrdiff_t i = 0; i < rows; i++) {
            int64_t right = target[first + i];
            if (right < 0 || right >= classes)
                cn_fail(step, CN_BAD_LABEL);
            else
                loss += (sum[i] + largest[i] - (double)x[i * classes + right]) *
                        (double)loss_weight(a->weight, first + i);
        }
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
        V_EACH(j, 0, classes, v_store_n(dx + j, v_load_n(prob + j, some) * scale, some));
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
