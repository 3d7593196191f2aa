#include "batchnorm.h"

#include "moments.h"
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

/* Two sums for each channel, in reals: a tile's. */
static ptrdiff_t backward_scratch(const void *args) {
    return 2 * cn_channels(((const batchnorm_backward *)args)->x) * (ptrdiff_t)sizeof(real);
}

static void add_tile(const real *tile, ptrdiff_t c, double *first, double *second) {
    for (ptrdiff_t j = 0; j < c; j += VL) {
        v_add_double(first + j, v_load_n(tile + j, c - j), c - j);
        v_add_double(second + j, v_load_n(tile + c + j, c - j), c - j);
    }
}

/* Forward: stage 0 makes each block's moments, stage 1 merges them, unless they are given, stage 2
 * normalizes. */

static const char *forward_check(const void *args) {
    const batchnorm_forward *a = args;
    return check(a->x, a->y, a->eps, (cn_tensor[]){a->gamma, a->beta, a->mean, a->var}, 4);
}

/* Doubles of the blocks' moments. */
static ptrdiff_t moments_room(const batchnorm_forward *a) {
    return a->moments_given ? 0 : blocks(a->x, a->x.shape[0]) * moments_size(cn_channels(a->x));
}

/* Behind them stand gamma / sqrt(var + eps), made in stage 1. */
static real *forward_scale(const batchnorm_forward *a) {
    return (real *)((double *)a->head.workspace + moments_room(a));
}

static ptrdiff_t forward_workspace(const void *args) {
    const batchnorm_forward *a = args;
    return moments_room(a) * (ptrdiff_t)sizeof(double) +
           cn_channels(a->x) * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t forward_blocks(const void *args, ptrdiff_t n) {
    return blocks(((const batchnorm_forward *)args)->x, n);
}

static ptrdiff_t moments_blocks(const void *args, ptrdiff_t n) {
    const batchnorm_forward *a = args;
    return a->moments_given ? 0 : blocks(a->x, n);
}

static void block_moments(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    CN(row_moments)((double *)a->head.workspace + chunk * moments_size(c),
                    (const real *)a->x.data + from * c,
                    cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c);
}

static ptrdiff_t forward_columns(const void *args, ptrdiff_t n) {
    (void)n;
    return moments_chunks(cn_channels(((const batchnorm_forward *)args)->x));
}

/* gamma / sqrt(var + eps), of channels from .. to. `restrict` makes it a loop of vectors. */
static void scales(real *restrict scale, const real *gamma, const real *var, double eps,
                   ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t j = from; j < to; j++)
        scale[j] = (real)((double)gamma[j] / __builtin_sqrt((double)var[j] + eps));
}

static void forward_scales(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), first = chunk * MOMENTS_COLUMNS;
    if (cn_rows(a->x, step->n) == 1) cn_fail(step, CN_ONE_VALUE);
    if (!a->moments_given)
        CN(merge_moments)(a->mean.data, a->var.data, a->head.workspace, blocks(a->x, step->n), c,
                          chunk);
    scales(forward_scale(a), a->gamma.data, a->var.data, a->eps, first,
           cn_min(c, first + MOMENTS_COLUMNS));
}

/* y = (x - mean) * scale + beta */
static void normalize(const real *x, real *y, ptrdiff_t rows, ptrdiff_t c, const real *mean,
                      const real *scale, const real *beta, int relu, int past) {
    for (ptrdiff_t i = 0; i < rows; i++, x += c, y += c)
        V_EACH(j, 0, c, {
            vec centred = v_load_n(x + j, some) - v_load_n(mean + j, some);
            vec out = centred * v_load_n(scale + j, some) + v_load_n(beta + j, some);
            if (relu) out = v_relu(out);
            v_put(y + j, out, some, past);
        });
}

static void forward_normalize(const void *args, const cn_step *step, ptrdiff_t chunk,
                              void *scratch) {
    (void)scratch;
    const batchnorm_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    normalize((const real *)a->x.data + from * c, (real *)a->y.data + from * c,
              cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c, a->mean.data,
              forward_scale(a), a->beta.data, (int)a->relu, rows_past_caches(a->y, a->x.data));
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

/* Doubles of the blocks' partial results: two for each channel. */
static ptrdiff_t parts_size(cn_tensor x) { return blocks(x, x.shape[0]) * 2 * cn_channels(x); }

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
    return moments_chunks(cn_channels(((const batchnorm_backward *)args)->x));
}

static void backward_scales(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)step, (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x);
    scales(backward_coefficients(a), a->gamma.data, a->var.data, a->eps, chunk * MOMENTS_COLUMNS,
           cn_min(c, (chunk + 1) * MOMENTS_COLUMNS));
}

/* What comes through the ReLU that `normalize` ended with. */
CN_INLINE vec through_relu(vec dy, vec centred, vec scale, vec beta) {
    return v_select(centred * scale + beta > 0, dy, (vec){0});
}

/* Of all channels. */
typedef struct {
    const real *mean, *scale, *beta, *centre, *slope;
} coefficients;

static coefficients coefficients_of(const batchnorm_backward *a) {
    const real *scale = backward_coefficients(a);
    ptrdiff_t c = cn_channels(a->x);
    return (coefficients){a->mean.data, scale, a->beta.data, scale + c, scale + 2 * c};
}

CN_INLINE void add_gradients(const int nv, ptrdiff_t some, const int relu, const real *x,
                             const real *dy, ptrdiff_t rows, ptrdiff_t c, coefficients of,
                             ptrdiff_t j, int begins, real *tile) {
    vec m[WIDE], scale[WIDE], beta[WIDE], sum[WIDE], product[WIDE];
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        ptrdiff_t at = j + v * VL, left = some - v * VL;
        m[v] = v_load_n(of.mean + at, left);
        if (relu) scale[v] = v_load_n(of.scale + at, left), beta[v] = v_load_n(of.beta + at, left);
        sum[v] = begins ? (vec){0} : v_load_n(tile + at, left);
        product[v] = begins ? (vec){0} : v_load_n(tile + c + at, left);
    }
    for (ptrdiff_t k = 0; k < rows; k++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            ptrdiff_t at = k * c + j + v * VL, left = some - v * VL;
            vec g = v_load_n(dy + at, left), centred = v_load_n(x + at, left) - m[v];
            if (relu) g = through_relu(g, centred, scale[v], beta[v]);
            sum[v] += g;
            product[v] += g * centred;
        }
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        v_store_n(tile + j + v * VL, sum[v], some - v * VL);
        v_store_n(tile + c + j + v * VL, product[v], some - v * VL);
    }
}

CN_INLINE void sum_gradients(const int relu, const real *x, const real *dy, ptrdiff_t rows,
                             ptrdiff_t c, coefficients of, double *sum, double *product,
                             real *tile) {
    ptrdiff_t at_once = rows_at_once(c, WIDE);
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE) {
        for (ptrdiff_t k = i; k < cn_min(rows, i + REDUCE_TILE); k += at_once) {
#define EACH(nv, some, j)                                                                          \
    add_gradients(nv, some, relu, x + k * c, dy + k * c, cn_min(at_once, rows - k), c, of, j,      \
                  k == i, tile)
            COLUMNS(c, WIDE, EACH);
#undef EACH
        }
        add_tile(tile, c, sum, product);
    }
}

static void block_gradients(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), cn_rows(a->x, step->n) - from);
    const real *x = (const real *)a->x.data + from * c, *dy = (const real *)a->dy.data + from * c;
    double *sum = (double *)a->head.workspace + chunk * 2 * c, *product = sum + c;
    for (ptrdiff_t j = 0; j < 2 * c; j++) sum[j] = 0;
    if (a->relu)
        sum_gradients(1, x, dy, rows, c, coefficients_of(a), sum, product, scratch);
    else
        sum_gradients(0, x, dy, rows, c, coefficients_of(a), sum, product, scratch);
}

static void merge_gradients(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), count = blocks(a->x, step->n);
    double total = (double)cn_rows(a->x, step->n);
    ptrdiff_t first = chunk * MOMENTS_COLUMNS, columns = cn_min(MOMENTS_COLUMNS, c - first);
    const double *parts = (const double *)a->head.workspace + first;
    double sum[MOMENTS_COLUMNS] = {0}, product[MOMENTS_COLUMNS] = {0};
    for (ptrdiff_t i = 0; i < count; i++, parts += 2 * c)
        for (ptrdiff_t j = 0; j < columns; j++) {
            sum[j] += parts[j];
            product[j] += parts[c + j];
        }
    real *centre = backward_coefficients(a) + c + first, *slope = centre + c;
    const real *var = (const real *)a->var.data + first;
    for (ptrdiff_t j = 0; j < columns; j++) {
        double inverse = 1 / __builtin_sqrt((double)var[j] + a->eps);
        product[j] *= inverse;
        if (a->dbeta.data) ((real *)a->dbeta.data)[first + j] = (real)sum[j];
        if (a->dgamma.data) ((real *)a->dgamma.data)[first + j] = (real)product[j];
        centre[j] = (real)(sum[j] / total);
        slope[j] = (real)(product[j] * inverse / total);
    }
}

static ptrdiff_t dx_blocks(const void *args, ptrdiff_t n) {
    const batchnorm_backward *a = args;
    return cn_present(a->dx) ? blocks(a->x, n) : 0;
}

CN_INLINE void dx_rows(const int relu, const real *x, const real *dy, ptrdiff_t rows, ptrdiff_t c,
                       coefficients of, real *dx, int past) {
    for (ptrdiff_t i = 0; i < rows; i++, x += c, dy += c, dx += c)
        V_EACH(j, 0, c, {
            vec g = v_load_n(dy + j, some), scale = v_load_n(of.scale + j, some);
            vec centred = v_load_n(x + j, some) - v_load_n(of.mean + j, some);
            if (relu) g = through_relu(g, centred, scale, v_load_n(of.beta + j, some));
            g -= v_load_n(of.centre + j, some) + centred * v_load_n(of.slope + j, some);
            v_put(dx + j, g * scale, some, past);
        });
}

static void backward_dx(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const batchnorm_backward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    ptrdiff_t rows = cn_min(row_block(a->x), cn_rows(a->x, step->n) - from);
    const real *x = (const real *)a->x.data + from * c, *dy = (const real *)a->dy.data + from * c;
    real *dx = (real *)a->dx.data + from * c;
    int past = rows_past_caches(a->dx, a->dy.data) && a->dx.data != a->x.data;
    if (a->relu)
        dx_rows(1, x, dy, rows, c, coefficients_of(a), dx, past);
    else
        dx_rows(0, x, dy, rows, c, coefficients_of(a), dx, past);
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

static void eval_normalize(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    const batchnorm_eval_forward *a = args;
    ptrdiff_t c = cn_channels(a->x), from = chunk * row_block(a->x);
    scales(scratch, a->gamma.data, a->running_var.data, a->eps, 0, c);
    normalize((const real *)a->x.data + from * c, (real *)a->y.data + from * c,
              cn_min(row_block(a->x), cn_rows(a->x, step->n) - from), c, a->running_mean.data,
              scratch, a->beta.data, (int)a->relu, rows_past_caches(a->y, a->x.data));
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
    scales(scratch, a->gamma.data, a->running_var.data, a->eps, 0, c);
    for (ptrdiff_t i = 0; i < rows; i++)
        V_EACH(j, 0, c,
               v_store_n(dx + i * c + j, v_load_n(dy + i * c + j, some) * v_load_n(scale + j, some),
                         some));
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
    V_EACH(j, 0, a->running.shape[0],
           v_store_n(running + j,
                     v_load_n(running + j, some) * keep + v_load_n(value + j, some) * take, some));
}

#define CN_ARGS_TYPE batchnorm_forward
static const cn_kernel forward = {
    .name = "batchnorm_forward",
    .args_size = sizeof(batchnorm_forward),
    .fields = CN_TABLE(BATCHNORM_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{moments_blocks, block_moments},
               {forward_columns, forward_scales},
               {forward_blocks, forward_normalize}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE batchnorm_backward
static const cn_kernel backward = {
    .name = "batchnorm_backward",
    .args_size = sizeof(batchnorm_backward),
    .fields = CN_TABLE(BATCHNORM_BACKWARD),
    .check = backward_check,
    .scratch = backward_scratch,
    .workspace = backward_workspace,
    .stages = {{backward_columns, backward_scales},
               {backward_blocks, block_gradients},
               {backward_columns, merge_gradients},
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
