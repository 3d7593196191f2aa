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

/* Doubles of the blocks' partial results: two for each channel. */
static ptrdiff_t parts_size(cn_tensor x) { return blocks(x, x.shape[0]) * 2 * cn_channels(x); }

/* Behind the parts stand gamma / sqrt(var + eps), made in stage 1. */
static real *forward_scale(const batchnorm_forward *a) {
    return (real *)((double *)a->head.workspace + parts_size(a->x));
}

static ptrdiff_t forward_workspace(const void *args) {
    const batchnorm_forward *a = args;
    return parts_size(a->x) * (ptrdiff_t)sizeof(double) +
           cn_channels(a->x) * (ptrdiff_t)sizeof(real);
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

static real scale_of(real gamma, real var, double eps) {
    return (real)((double)gamma / __builtin_sqrt((double)var + eps));
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
        real var = (real)(squares < 0 ? 0 : squares / count);
        ((real *)a->var.data)[j] = var;
        forward_scale(a)[j] = scale_of(((const real *)a->gamma.data)[j], var, a->eps);
    }
}

/* y = (x - mean) * scale + beta */
static void normalize(const real *x, real *y, ptrdiff_t rows, ptrdiff_t c, const real *mean,
                      const real *scale, const real *beta, int relu) {
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE)
        for (ptrdiff_t j = 0; j < c; j += VL) {
            ptrdiff_t some = c - j;
            vec m = v_load_n(mean + j, some), factor = v_load_n(scale + j, some);
            vec shift = v_load_n(beta + j, some);
            for (ptrdiff_t k = i; k < cn_min(rows, i + REDUCE_TILE); k++) {
                vec out = (v_load_n(x + k * c + j, some) - m) * factor + shift;
                if (relu) out = v_select(out <= 0, (vec){0}, out);
                v_store_n(y + k * c + j, out, some);
            }
        }
}

static void forward_normalize(const void *args, const cn_step *step, ptrdiff_t chunk,
                              void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    normalize((const real *)a->x.data + from * c, (real *)a->y.data + from * c,
              cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c, a->mean.data,
              forward_scale(a), a->beta.data, (int)a->relu);
}

/* Backward: stage 0 makes the scale of each channel, stage 1 each block's sums of dy and
 * dy (x - mean), stage 2 adds them up, stage 3 makes dx. */

static const char *backward_check(const void *args) {
    const batchnorm_backward *a = args;
    if (!cn_same(a->dy, a->x)) return "dy must have the shape of x";
    if (cn_present(a->dx) && !cn_same(a->dx, a->x)) return "dx must have the shape of x";
    if (cn_present(a->dgamma) && !cn_same(a->dgamma, a->gamma))
        return "dgamma must have the shape of gamma";
    if (cn_present(a->dbeta) && !cn_same(a->dbeta, a->gamma))
        return "dbeta must have the shape of beta";
    if (a->relu ? !cn_same(a->beta, a->gamma) : cn_present(a->beta) && !cn_same(a->beta, a->gamma))
        return "beta must have the shape of gamma";
    return check(a->x, a->x, a->eps, (cn_tensor[]){a->gamma, a->mean, a->var}, 3);
}

/* Behind the parts stand scale, centre and slope of dx = scale (dy - centre - (x - mean) slope). */
static real *backward_coefficients(const batchnorm_backward *a) {
    return (real *)((double *)a->head.workspace + parts_size(a->x));
}

static ptrdiff_t backward_workspace(const void *args) {
    const batchnorm_backward *a = args;
    return parts_size(a->x) * (ptrdiff_t)sizeof(double) +
           3 * cn_channels(a->x) * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t backward_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_backward *)args)->x, n);
}

static ptrdiff_t backward_columns(const void *args, ptrdiff_t n) {
    (void)n;
    return cn_ceil_div(cn_channels(((const batchnorm_backward *)args)->x), COLUMN_BLOCK);
}

static void backward_scales(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)step, (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x);
    for (ptrdiff_t j = chunk * COLUMN_BLOCK; j < cn_min(c, (chunk + 1) * COLUMN_BLOCK); j++)
        backward_coefficients(a)[j] =
            scale_of(((const real *)a->gamma.data)[j], ((const real *)a->var.data)[j], a->eps);
}

/* What comes through the ReLU that `normalize` ended with. */
CN_INLINE vec through_relu(vec dy, vec centred, vec scale, vec beta) {
    return v_select(centred * scale + beta > 0, dy, (vec){0});
}

CN_INLINE void sum_gradients(const int relu, const batchnorm_backward *a, const real *x,
                             const real *dy, ptrdiff_t rows, double *sum, double *product) {
    ptrdiff_t c = cn_channels(a->x);
    const real *mean = a->mean.data, *scale = backward_coefficients(a), *beta = a->beta.data;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE)
        for (ptrdiff_t j = 0; j < c; j += VL) {
            ptrdiff_t some = c - j;
            vec m = v_load_n(mean + j, some), s = {0}, p = {0}, factor = {0}, shift = {0};
            if (relu) factor = v_load_n(scale + j, some), shift = v_load_n(beta + j, some);
            for (ptrdiff_t k = i; k < cn_min(rows, i + REDUCE_TILE); k++) {
                vec g = v_load_n(dy + k * c + j, some);
                vec centred = v_load_n(x + k * c + j, some) - m;
                if (relu) g = through_relu(g, centred, factor, shift);
                s += g;
                p += g * centred;
            }
            v_add_double(sum + j, s, some);
            v_add_double(product + j, p, some);
        }
}

static void block_gradients(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), cn_rows(a->x, step->n) - from);
    const real *x = (const real *)a->x.data + from * c, *dy = (const real *)a->dy.data + from * c;
    double *sum = (double *)a->head.workspace + chunk * 2 * c, *product = sum + c;
    for (ptrdiff_t j = 0; j < 2 * c; j++) sum[j] = 0;
    if (a->relu)
        sum_gradients(1, a, x, dy, rows, sum, product);
    else
        sum_gradients(0, a, x, dy, rows, sum, product);
}

static void add_gradients(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), count = blocks(a->x, step->n);
    double total = (double)cn_rows(a->x, step->n);
    const double *parts = a->head.workspace;
    real *centre = backward_coefficients(a) + c, *slope = centre + c;
    for (ptrdiff_t j = chunk * COLUMN_BLOCK; j < cn_min(c, (chunk + 1) * COLUMN_BLOCK); j++) {
        double sum = 0, product = 0;
        for (ptrdiff_t i = 0; i < count; i++) {
            sum += parts[2 * c * i + j];
            product += parts[2 * c * i + c + j];
        }
        double inverse = 1 / __builtin_sqrt((double)((const real *)a->var.data)[j] + a->eps);
        product *= inverse;
        if (a->dbeta.data) ((real *)a->dbeta.data)[j] = (real)sum;
        if (a->dgamma.data) ((real *)a->dgamma.data)[j] = (real)product;
        centre[j] = (real)(sum / total);
        slope[j] = (real)(product * inverse / total);
    }
}

static ptrdiff_t dx_blocks(const void *args, ptrdiff_t n) {
    const batchnorm_backward *a = args;
    return cn_present(a->dx) ? blocks(a->x, n) : 0;
}

CN_INLINE void gradient_rows(const int relu, const batchnorm_backward *a, const real *x,
                             const real *dy, ptrdiff_t rows, real *dx) {
    ptrdiff_t c = cn_channels(a->x);
    const real *mean = a->mean.data, *scale = backward_coefficients(a), *beta = a->beta.data;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE)
        for (ptrdiff_t j = 0; j < c; j += VL) {
            ptrdiff_t some = c - j;
            vec m = v_load_n(mean + j, some), factor = v_load_n(scale + j, some), shift = {0};
            vec centre = v_load_n(scale + c + j, some), slope = v_load_n(scale + 2 * c + j, some);
            if (relu) shift = v_load_n(beta + j, some);
            for (ptrdiff_t k = i; k < cn_min(rows, i + REDUCE_TILE); k++) {
                vec g = v_load_n(dy + k * c + j, some);
                vec centred = v_load_n(x + k * c + j, some) - m;
                if (relu) g = through_relu(g, centred, factor, shift);
                v_store_n(dx + k * c + j, (g - centre - centred * slope) * factor, some);
            }
        }
}

static void backward_dx(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), cn_rows(a->x, step->n) - from);
    const real *x = (const real *)a->x.data + from * c, *dy = (const real *)a->dy.data + from * c;
    real *dx = (real *)a->dx.data + from * c;
    if (a->relu)
        gradient_rows(1, a, x, dy, rows, dx);
    else
        gradient_rows(0, a, x, dy, rows, dx);
}

static const char *eval_check(const void *args) {
    const batchnorm_eval_forward *a = args;
    return check(a->x, a->y, a->eps,
                 (cn_tensor[]){a->gamma, a->beta, a->running_mean, a->running_var}, 4);
}

static ptrdiff_t eval_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_eval_forward *)args)->x, n);
}

/* At test time nothing comes before that could make the scales once: each chunk does. */
static ptrdiff_t eval_scratch(const void *args) {
    return cn_channels(((const batchnorm_eval_forward *)args)->x) * (ptrdiff_t)sizeof(real);
}

static void scales(real *scale, const real *gamma, const real *var, double eps, ptrdiff_t c) {
    for (ptrdiff_t j = 0; j < c; j++) scale[j] = scale_of(gamma[j], var[j], eps);
}

static void eval_normalize(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const batchnorm_eval_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    scales(scratch, a->gamma.data, a->running_var.data, a->eps, c);
    normalize((const real *)a->x.data + from * c, (real *)a->y.data + from * c,
              cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c, a->running_mean.data,
              scratch, a->beta.data, (int)a->relu);
}

static const char *eval_backward_check(const void *args) {
    const batchnorm_eval_backward *a = args;
    return check(a->dy, a->dx, a->eps, (cn_tensor[]){a->gamma, a->running_var}, 2);
}

static ptrdiff_t eval_backward_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_eval_backward *)args)->dy, n);
}

static ptrdiff_t eval_backward_scratch(const void *args) {
    return cn_channels(((const batchnorm_eval_backward *)args)->dy) * (ptrdiff_t)sizeof(real);
}

static void eval_backward_run(const void *args, const cn_step *step, ptrdiff_t chunk,
                              void *scratch) {
    const batchnorm_eval_backward *a = args;
    ptrdiff_t c = cn_channels(a->dy), from = chunk * row_block(a->dy);
    ptrdiff_t rows = cn_min(row_block(a->dy), cn_rows(a->dy, step->n) - from);
    const real *dy = (const real *)a->dy.data + from * c, *scale = scratch;
    real *dx = (real *)a->dx.data + from * c;
    scales(scratch, a->gamma.data, a->running_var.data, a->eps, c);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < c; j += VL)
            v_store_n(dx + i * c + j, v_load_n(dy + i * c + j, c - j) * v_load_n(scale + j, c - j),
                      c - j);
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
    .stages = {{backward_columns, backward_scales},
               {backward_blocks, block_gradients},
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
    .scratch = eval_scratch,
    .stages = {{eval_blocks, eval_normalize}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE batchnorm_eval_backward
static const cn_kernel eval_backward = {
    .name = "batchnorm_eval_backward",
    .args_size = sizeof(batchnorm_eval_backward),
    .fields = CN_TABLE(BATCHNORM_EVAL_BACKWARD),
    .check = eval_backward_check,
    .scratch = eval_backward_scratch,
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
