#include "batchnorm.h"

#include "reduce.h"

static const char *check(cn_tensor x, cn_tensor y, double eps, const cn_tensor *per_channel,
                         int count) {
    if ((x.rank != 2 && x.rank != 4) || cn_elements(x) < 1)
        return "x must have shape (n, d) or (n, h, w, c), none of them 0";
    if (!cn_same(y, x)) return "y must have the shape of x";
    for (int i = 0; i < count; i++)
        if (!cn_is(per_channel[i], 1, cn_channels(x), 1, 1, 1))
            return "parameters and statistics must have one value per channel";
    if (!(eps > 0 && eps <= 1)) return "eps must lie in (0, 1]";
    return NULL;
}

/* Rows of one chunk: near 64 KiB, so that a chunk read twice is read from the nearest cache, and
 * not so many that an outlier in the first of them weighs on all the others' differences from it.
 */
static ptrdiff_t row_block(cn_tensor x) {
    return cn_clamp((64 << 10) / ((ptrdiff_t)sizeof(real) * cn_channels(x)), REDUCE_TILE, 1024);
}
static ptrdiff_t blocks(cn_tensor x, ptrdiff_t n) {
    return cn_ceil_div(cn_rows(x, n), row_block(x));
}

/* Columns that one chunk of a combining stage takes. */
enum { COLUMN_BLOCK = 64 };

/* Forward: stage 0 makes each block's mean and sum of squared deviations, stage 1 merges them in
 * order (Chan, Golub, LeVeque 1979), stage 2 normalizes. The squares are of differences from the
 * block's first row, so a constant channel has variance exactly 0. */

static const char *forward_check(const void *args) {
    const batchnorm_forward *a = args;
    return check(a->x, a->y, a->eps, (cn_tensor[]){a->gamma, a->beta, a->mean, a->var}, 4);
}

static ptrdiff_t forward_workspace(const void *args) {
    const batchnorm_forward *a = args;
    return blocks(a->x, a->x.shape[0]) * 2 * cn_channels(a->x) * (ptrdiff_t)sizeof(double);
}

static ptrdiff_t forward_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_forward *)args)->x, n);
}

static void block_moments(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), total = cn_rows(a->x, step->n), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), total - from);
    if (total == 1) cn_fail(step, CN_ONE_VALUE);
    const real *x = (const real *)a->x.data + from * c;
    double *mean = (double *)a->head.workspace + chunk * 2 * c, *squares = mean + c;
    for (ptrdiff_t j = 0; j < 2 * c; j++) mean[j] = 0;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE) {
        ptrdiff_t some = cn_min(REDUCE_TILE, rows - i);
        for (ptrdiff_t j = 0; j < c; j += VL) {
            vec shift = v_load_n(x + j, c - j), sum = {0}, square = {0};
            for (ptrdiff_t k = i; k < i + some; k++) {
                vec difference = v_load_n(x + k * c + j, c - j) - shift;
                sum += difference;
                square += difference * difference;
            }
            v_add_double(mean + j, sum, c - j);
            v_add_double(squares + j, square, c - j);
        }
    }
    for (ptrdiff_t j = 0; j < c; j++) {
        double shifted = mean[j] / (double)rows;
        squares[j] -= shifted * mean[j];
        mean[j] = (double)x[j] + shifted;
    }
}

static ptrdiff_t forward_columns(const void *args, ptrdiff_t n) {
    (void)n;
    return cn_ceil_div(cn_channels(((const batchnorm_forward *)args)->x), COLUMN_BLOCK);
}

static void merge_moments(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), total = cn_rows(a->x, step->n), block = row_block(a->x);
    const double *parts = a->head.workspace;
    for (ptrdiff_t j = chunk * COLUMN_BLOCK; j < cn_min(c, (chunk + 1) * COLUMN_BLOCK); j++) {
        double mean = parts[j], squares = parts[c + j], count = (double)cn_min(block, total);
        for (ptrdiff_t i = 1; i < blocks(a->x, step->n); i++) {
            double rows = (double)cn_min(block, total - i * block), both = count + rows;
            double difference = parts[2 * c * i + j] - mean;
            mean += difference * (rows / both);
            squares += parts[2 * c * i + c + j] + difference * difference * (count * rows / both);
            count = both;
        }
        ((real *)a->mean.data)[j] = (real)mean;
        /* Rounding may leave a hair less than nothing; NaN stays. */
        ((real *)a->var.data)[j] = (real)(squares < 0 ? 0 : squares / count);
    }
}

/* gamma / sqrt(var + eps) of up to VL channels. */
CN_INLINE vec scales(const real *gamma, const real *var, double eps, ptrdiff_t some) {
    vec scale = {0};
    for (ptrdiff_t i = 0; i < some; i++)
        scale[i] = (real)((double)gamma[i] / __builtin_sqrt((double)var[i] + eps));
    return scale;
}

/* y = (x - mean) * scale + beta, scale = gamma / sqrt(var + eps). */
static void normalize(const real *x, real *y, ptrdiff_t rows, ptrdiff_t c, const real *gamma,
                      const real *beta, const real *mean, const real *var, double eps, int relu) {
    for (ptrdiff_t j = 0; j < c; j += VL) {
        ptrdiff_t some = cn_min(VL, c - j);
        vec scale = scales(gamma + j, var + j, eps, some);
        vec m = v_load_n(mean + j, some), shift = v_load_n(beta + j, some);
        for (ptrdiff_t i = 0; i < rows; i++) {
            vec out = (v_load_n(x + i * c + j, some) - m) * scale + shift;
            if (relu) out = v_select(out <= 0, (vec){0}, out);
            v_store_n(y + i * c + j, out, some);
        }
    }
}

static void forward_normalize(const void *args, const cn_step *step, ptrdiff_t chunk,
                              void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    normalize((const real *)a->x.data + from * c, (real *)a->y.data + from * c,
              cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c, a->gamma.data,
              a->beta.data, a->mean.data, a->var.data, a->eps, (int)a->relu);
}

/* Backward: stage 0 makes each block's sums of dy and dy xhat, stage 1 adds them up, stage 2 makes
 * dx. */

static const char *backward_check(const void *args) {
    const batchnorm_backward *a = args;
    if (!cn_same(a->dy, a->x)) return "dy must have the shape of x";
    if (cn_present(a->dx) && !cn_same(a->dx, a->x)) return "dx must have the shape of x";
    if (cn_present(a->dgamma) && !cn_same(a->dgamma, a->gamma))
        return "dgamma must have the shape of gamma";
    if (cn_present(a->dbeta) && !cn_same(a->dbeta, a->gamma))
        return "dbeta must have the shape of beta";
    return check(a->x, a->x, a->eps, (cn_tensor[]){a->gamma, a->mean, a->var}, 3);
}

static ptrdiff_t backward_workspace(const void *args) {
    const batchnorm_backward *a = args;
    return blocks(a->x, a->x.shape[0]) * 2 * cn_channels(a->x) * (ptrdiff_t)sizeof(double);
}

static ptrdiff_t backward_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_backward *)args)->x, n);
}

CN_INLINE double inverse_std(const batchnorm_backward *a, ptrdiff_t j) {
    return 1 / __builtin_sqrt((double)((const real *)a->var.data)[j] + a->eps);
}

static void block_gradients(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), cn_rows(a->x, step->n) - from);
    const real *x = (const real *)a->x.data + from * c, *dy = (const real *)a->dy.data + from * c;
    const real *mean = a->mean.data;
    double *sum = (double *)a->head.workspace + chunk * 2 * c, *product = sum + c;
    for (ptrdiff_t j = 0; j < 2 * c; j++) sum[j] = 0;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE) {
        ptrdiff_t some = cn_min(REDUCE_TILE, rows - i);
        for (ptrdiff_t j = 0; j < c; j += VL) {
            vec m = v_load_n(mean + j, c - j), s = {0}, p = {0};
            for (ptrdiff_t k = i; k < i + some; k++) {
                vec g = v_load_n(dy + k * c + j, c - j);
                s += g;
                p += g * (v_load_n(x + k * c + j, c - j) - m);
            }
            v_add_double(sum + j, s, c - j);
            v_add_double(product + j, p, c - j);
        }
    }
    for (ptrdiff_t j = 0; j < c; j++) product[j] *= inverse_std(a, j);
}

static ptrdiff_t backward_columns(const void *args, ptrdiff_t n) {
    (void)n;
    return cn_ceil_div(cn_channels(((const batchnorm_backward *)args)->x), COLUMN_BLOCK);
}

static void add_gradients(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), count = blocks(a->x, step->n);
    double *parts = a->head.workspace;
    for (ptrdiff_t j = chunk * COLUMN_BLOCK; j < cn_min(c, (chunk + 1) * COLUMN_BLOCK); j++) {
        for (ptrdiff_t i = 1; i < count; i++) {
            parts[j] += parts[2 * c * i + j];
            parts[c + j] += parts[2 * c * i + c + j];
        }
        if (a->dbeta.data) ((real *)a->dbeta.data)[j] = (real)parts[j];
        if (a->dgamma.data) ((real *)a->dgamma.data)[j] = (real)parts[c + j];
    }
}

static ptrdiff_t dx_blocks(const void *args, ptrdiff_t n) {
    const batchnorm_backward *a = args;
    return cn_present(a->dx) ? blocks(a->x, n) : 0;
}

static void backward_dx(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), total = cn_rows(a->x, step->n), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), total - from);
    const real *x = (const real *)a->x.data + from * c, *dy = (const real *)a->dy.data + from * c;
    real *dx = (real *)a->dx.data + from * c;
    const double *sum = a->head.workspace, *product = sum + c;
    for (ptrdiff_t j = 0; j < c; j += VL) {
        ptrdiff_t some = cn_min(VL, c - j);
        /* dx = scale (dy - centre - (x - mean) slope) */
        vec m = v_load_n((const real *)a->mean.data + j, some), scale = {0}, centre = {0},
            slope = {0};
        for (ptrdiff_t i = 0; i < some; i++) {
            double inverse = inverse_std(a, j + i);
            scale[i] = (real)((double)((const real *)a->gamma.data)[j + i] * inverse);
            centre[i] = (real)(sum[j + i] / (double)total);
            slope[i] = (real)(product[j + i] * inverse / (double)total);
        }
        for (ptrdiff_t i = 0; i < rows; i++) {
            vec centred = v_load_n(x + i * c + j, some) - m;
            vec g = v_load_n(dy + i * c + j, some) - centre - centred * slope;
            v_store_n(dx + i * c + j, g * scale, some);
        }
    }
}

static const char *eval_check(const void *args) {
    const batchnorm_eval_forward *a = args;
    return check(a->x, a->y, a->eps,
                 (cn_tensor[]){a->gamma, a->beta, a->running_mean, a->running_var}, 4);
}

static ptrdiff_t eval_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_eval_forward *)args)->x, n);
}

static void eval_normalize(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_eval_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    normalize((const real *)a->x.data + from * c, (real *)a->y.data + from * c,
              cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c, a->gamma.data,
              a->beta.data, a->running_mean.data, a->running_var.data, a->eps, (int)a->relu);
}

static const char *eval_backward_check(const void *args) {
    const batchnorm_eval_backward *a = args;
    return check(a->dy, a->dx, a->eps, (cn_tensor[]){a->gamma, a->running_var}, 2);
}

static ptrdiff_t eval_backward_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_eval_backward *)args)->dy, n);
}

static void eval_backward_run(const void *args, const cn_step *step, ptrdiff_t chunk,
                              void *scratch) {
    (void)scratch;
    const batchnorm_eval_backward *a = args;
    ptrdiff_t c = cn_channels(a->dy), from = chunk * row_block(a->dy);
    ptrdiff_t rows = cn_min(row_block(a->dy), cn_rows(a->dy, step->n) - from);
    const real *dy = (const real *)a->dy.data + from * c;
    real *dx = (real *)a->dx.data + from * c;
    for (ptrdiff_t j = 0; j < c; j += VL) {
        ptrdiff_t some = cn_min(VL, c - j);
        vec scale = scales((const real *)a->gamma.data + j, (const real *)a->running_var.data + j,
                           a->eps, some);
        for (ptrdiff_t i = 0; i < rows; i++)
            v_store_n(dx + i * c + j, v_load_n(dy + i * c + j, some) * scale, some);
    }
}

static const char *running_check(const void *args) {
    const running_average_update *a = args;
    if (a->running.rank != 1 || a->running.shape[0] < 1) return "running must have shape (c,)";
    if (!cn_same(a->value, a->running)) return "value must have the shape of running";
    if (!(a->momentum >= 0 && a->momentum < 1)) return "momentum must lie in [0, 1)";
    return NULL;
}

static ptrdiff_t running_chunks(const void *args, ptrdiff_t n) {
    (void)args, (void)n;
    return 1;
}

static void running_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)step, (void)chunk, (void)scratch;
    const running_average_update *a = args;
    const real keep = (real)a->momentum, take = (real)(1 - a->momentum);
    real *running = a->running.data;
    const real *value = a->value.data;
    for (ptrdiff_t j = 0; j < a->running.shape[0]; j += VL) {
        ptrdiff_t some = a->running.shape[0] - j;
        v_store_n(running + j,
                  v_load_n(running + j, some) * keep + v_load_n(value + j, some) * take, some);
    }
}

#define CN_ARGS_TYPE batchnorm_forward
static const cn_kernel forward = {
    .name = "batchnorm_forward",
    .args_size = sizeof(batchnorm_forward),
    .fields = CN_TABLE(BATCHNORM_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{forward_blocks, block_moments},
               {forward_columns, merge_moments},
               {forward_blocks, forward_normalize}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE batchnorm_backward
static const cn_kernel backward = {
    .name = "batchnorm_backward",
    .args_size = sizeof(batchnorm_backward),
    .fields = CN_TABLE(BATCHNORM_BACKWARD),
    .check = backward_check,
    .workspace = backward_workspace,
    .stages = {{backward_blocks, block_gradients},
               {backward_columns, add_gradients},
               {dx_blocks, backward_dx}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE batchnorm_eval_forward
static const cn_kernel eval = {
    .name = "batchnorm_eval_forward",
    .args_size = sizeof(batchnorm_eval_forward),
    .fields = CN_TABLE(BATCHNORM_EVAL_FORWARD),
    .check = eval_check,
    .stages = {{eval_blocks, eval_normalize}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE batchnorm_eval_backward
static const cn_kernel eval_backward = {
    .name = "batchnorm_eval_backward",
    .args_size = sizeof(batchnorm_eval_backward),
    .fields = CN_TABLE(BATCHNORM_EVAL_BACKWARD),
    .check = eval_backward_check,
    .stages = {{eval_backward_blocks, eval_backward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE running_average_update
static const cn_kernel running = {
    .name = "running_average_update",
    .args_size = sizeof(running_average_update),
    .fields = CN_TABLE(RUNNING_AVERAGE_UPDATE),
    .check = running_check,
    .stages = {{running_chunks, running_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(batchnorm)[] = {&forward,       &backward, &eval,
                                          &eval_backward, &running,  NULL};
