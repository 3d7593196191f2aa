#include "gather.h"

#include "simd.h"

/* Examples of one chunk: near 16384 elements. */
static ptrdiff_t example_block(cn_tensor x) { return cn_max(1, 16384 / cn_example(x)); }

static int per_example(cn_tensor t, cn_tensor x) {
    if (!cn_present(t)) return 1;
    ptrdiff_t length = cn_elements(t);
    return t.rank >= 1 && (length == 1 || length == cn_channels(x) || length == cn_example(x));
}

static const char *gather_check(const void *args) {
    const gather_forward *a = args;
    if (a->x.rank < 2 || cn_elements(a->x) < 1) return "x must have shape (n, ...), none of them 0";
    if (a->data.rank < 1 || cn_example(a->data) != cn_example(a->x))
        return "an example of data must have as many elements as one of x";
    if (!per_example(a->mean, a->x) || !per_example(a->scale, a->x))
        return "mean and scale must have length 1, or one value per channel or element of x";
    if (cn_present(a->labels) != cn_present(a->target)) return "labels and target go together";
    if (cn_present(a->labels)) {
        if (!cn_is(a->labels, 1, a->labels.shape[0], 1, 1, 1)) return "labels must have shape (N,)";
        if (!cn_is(a->target, 1, a->x.shape[0], 1, 1, 1)) return "target must have shape (n,)";
        if (a->classes[0] < 1) return "classes must be at least 1";
    }
    return NULL;
}

static ptrdiff_t gather_chunks(const void *args, ptrdiff_t n) {
    return cn_ceil_div(n, example_block(((const gather_forward *)args)->x));
}

/* x / 255 for whole numbers x up to 255, correctly rounded, without a division: 1/255 is 257/65536
 * and 1/65536 of itself, of which the first times x has no rounding error, and the second's error
 * is too small to matter. */
CN_INLINE real per_255(uint8_t x) {
    const real most = (real)(257. / 65536), rest = (real)(1. / (65536. * 255));
    return (real)x * most + (real)x * rest;
}

/* One example as reals; 0 if it holds NaN or infinity. */
static int read_example(cn_tensor data, ptrdiff_t row, ptrdiff_t length, real *x) {
    int finite = 1;
    if (data.type == CN_U8) {
        const uint8_t *from = (const uint8_t *)data.data + row * length;
        for (ptrdiff_t j = 0; j < length; j++) x[j] = per_255(from[j]);
    } else if (data.type == CN_F64) {
        const double *from = (const double *)data.data + row * length;
        for (ptrdiff_t j = 0; j < length; j++) {
            x[j] = (real)from[j];
            finite &= __builtin_isfinite(x[j]);
        }
    } else {
        const float *from = (const float *)data.data + row * length;
        for (ptrdiff_t j = 0; j < length; j++) {
            x[j] = (real)from[j];
            finite &= __builtin_isfinite(x[j]);
        }
    }
    return finite;
}

/* x = x - mean or x * scale, the vector repeated over the example. */
static void subtract(real *x, ptrdiff_t length, cn_tensor mean) {
    const real *m = mean.data;
    ptrdiff_t period = cn_elements(mean);
    for (ptrdiff_t i = 0; i < length; i += period)
        for (ptrdiff_t j = 0; j < period; j++) x[i + j] -= m[j];
}
static void multiply(real *x, ptrdiff_t length, cn_tensor scale) {
    const real *s = scale.data;
    ptrdiff_t period = cn_elements(scale);
    for (ptrdiff_t i = 0; i < length; i += period)
        for (ptrdiff_t j = 0; j < period; j++) x[i + j] *= s[j];
}

static void gather_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const gather_forward *a = args;
    ptrdiff_t length = cn_example(a->x), block = example_block(a->x);
    for (ptrdiff_t i = chunk * block; i < cn_min(step->n, (chunk + 1) * block); i++) {
        ptrdiff_t row = (ptrdiff_t)step->index[i];
        if (row < 0 || row >= a->data.shape[0] ||
            (cn_present(a->labels) && row >= a->labels.shape[0])) {
            cn_fail(step, CN_BAD_INDEX);
            return;
        }
        real *x = (real *)a->x.data + i * length;
        if (!read_example(a->data, row, length, x)) cn_fail(step, CN_BAD_INPUT);
        if (cn_present(a->mean)) subtract(x, length, a->mean);
        if (cn_present(a->scale)) multiply(x, length, a->scale);
        if (cn_present(a->labels)) {
            int64_t label = ((const int64_t *)a->labels.data)[row];
            if (label < 0 || label >= a->classes[0]) cn_fail(step, CN_BAD_LABEL);
            ((int64_t *)a->target.data)[i] = label;
        }
    }
}

static const char *output_check(const void *args) {
    const output_forward *a = args;
    if (a->x.rank < 1 || cn_elements(a->x) < 1) return "x must have at least one element";
    if (a->y.rank != a->x.rank || cn_example(a->y) != cn_example(a->x))
        return "an example of y must have the shape of one of x";
    return NULL;
}

static ptrdiff_t output_chunks(const void *args, ptrdiff_t n) {
    return cn_ceil_div(n, example_block(((const output_forward *)args)->x));
}

static void output_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const output_forward *a = args;
    ptrdiff_t length = cn_example(a->x), block = example_block(a->x), i = chunk * block;
    ptrdiff_t some = cn_min(block, step->n - i);
    if (step->row < 0 || step->row + i + some > a->y.shape[0]) {
        cn_fail(step, CN_BAD_INDEX);
        return;
    }
    memcpy((real *)a->y.data + (step->row + i) * length, (const real *)a->x.data + i * length,
           (size_t)(some * length) * sizeof(real));
}

#define CN_ARGS_TYPE gather_forward
static const cn_kernel gather = {
    .name = "gather_forward",
    .args_size = sizeof(gather_forward),
    .fields = CN_TABLE(GATHER_FORWARD),
    .check = gather_check,
    .stages = {{gather_chunks, gather_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE output_forward
static const cn_kernel output = {
    .name = "output_forward",
    .args_size = sizeof(output_forward),
    .fields = CN_TABLE(OUTPUT_FORWARD),
    .check = output_check,
    .stages = {{output_chunks, output_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(gather)[] = {&gather, &output, NULL};
