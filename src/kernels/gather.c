#include "gather.h"

#include "simd.h"

/* Elements of one chunk, nearly: of whole examples, or parts of them. */
enum { CHUNK = 16384 };
static ptrdiff_t example_block(cn_tensor x) { return cn_max(1, CHUNK / cn_example(x)); }

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

/* Long vectors are gathered in parts, for all examples one after the other: an affine layer's
 * thread meets some inputs of all examples (affine.c), and those then are in its caches, and no
 * line of theirs travels to others. Halves of the parts fall upon halves of the inputs. An image
 * belongs to one thread. */
enum { LEAST_PART = 256, MOST_PARTS = 8 };
static ptrdiff_t parts_of(cn_tensor x, ptrdiff_t n) {
    ptrdiff_t pairs = cn_clamp(cn_example(x) / (2 * LEAST_PART), 0, MOST_PARTS / 2);
    return x.rank == 2 && n > example_block(x) && pairs ? 2 * pairs : 1;
}
static ptrdiff_t blocks_of(cn_tensor x, ptrdiff_t n) {
    return cn_ceil_div(n, parts_of(x, n) * example_block(x));
}

static ptrdiff_t gather_chunks(const void *args, ptrdiff_t n) {
    const gather_forward *a = args;
    return parts_of(a->x, n) * blocks_of(a->x, n);
}

/* x / 255 for whole numbers x up to 255, correctly rounded, without a division: 1/255 is 257/65536
 * and 1/65536 of itself, of which the first times x has no rounding error, and the second's error
 * is too small to matter. */
CN_INLINE real per_255(uint8_t x) {
    const real most = (real)(257. / 65536), rest = (real)(1. / (65536. * 255));
    return (real)x * most + (real)x * rest;
}

/* `length` values as reals, from the data's element `at`, checked. */
static void read_values(cn_tensor data, ptrdiff_t at, ptrdiff_t length, real *x, v_check *check) {
    if (data.type == CN_U8) {
        const uint8_t *from = (const uint8_t *)data.data + at;
        for (ptrdiff_t j = 0; j < length; j++) x[j] = per_255(from[j]);
        return;
    }
    if (data.type == (CN_DOUBLE ? CN_F64 : CN_F32)) {
        v_copy_checked(x, (const real *)data.data + at, length, check);
        return;
    }
    if (data.type == CN_F64) {
        const double *from = (const double *)data.data + at;
        for (ptrdiff_t j = 0; j < length; j++) x[j] = (real)from[j];
    } else {
        const float *from = (const float *)data.data + at;
        for (ptrdiff_t j = 0; j < length; j++) x[j] = (real)from[j];
    }
    v_check_finite(x, length, check);
}

/* Asks for what is read next: a part is short, and the processor would begin anew with each. For
 * the second cache, which waits for more lines at a time than the first. */
static void ask_for_values(cn_tensor data, ptrdiff_t at, ptrdiff_t length) {
    ptrdiff_t bytes = data.type == CN_U8 ? 1 : data.type == CN_F64 ? 8 : 4;
    const char *from = (const char *)data.data + at * bytes;
    for (ptrdiff_t l = 0; l < length * bytes; l += 64) __builtin_prefetch(from + l, 0, 2);
}

/* mean or scale, short ones repeated until that is whole vectors. */
enum { SHORT = 64 };
typedef struct {
    const real *values;
    ptrdiff_t period;
} repeated;
static repeated repeat(cn_tensor t, real *room) {
    if (!cn_present(t)) return (repeated){NULL, 0};
    ptrdiff_t period = cn_elements(t);
    if (period > SHORT) return (repeated){t.data, period};
    for (ptrdiff_t i = 0; i < VL; i++)
        memcpy(room + i * period, t.data, (size_t)period * sizeof(real));
    return (repeated){room, VL * period};
}

static void subtract(real *x, ptrdiff_t length, repeated mean) {
    const real *m = mean.values;
    for (; length > 0; length -= mean.period, x += mean.period)
        V_EACH(j, 0, cn_min(length, mean.period),
               v_store_n(x + j, v_load_n(x + j, some) - v_load_n(m + j, some), some));
}
static void multiply(real *x, ptrdiff_t length, repeated scale) {
    const real *s = scale.values;
    for (; length > 0; length -= scale.period, x += scale.period)
        V_EACH(j, 0, cn_min(length, scale.period),
               v_store_n(x + j, v_load_n(x + j, some) * v_load_n(s + j, some), some));
}

/* The values for elements from `first` on. */
static repeated from_element(repeated o, ptrdiff_t first, ptrdiff_t elements) {
    return (repeated){o.period == elements ? o.values + first : o.values, o.period};
}

static void gather_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const gather_forward *a = args;
    ptrdiff_t example = cn_example(a->x), n = step->n, parts = parts_of(a->x, n);
    ptrdiff_t blocks = blocks_of(a->x, n), block = parts * example_block(a->x);
    ptrdiff_t part = chunk / blocks;
    ptrdiff_t first = cn_part(example, parts, part);
    ptrdiff_t length = cn_part(example, parts, part + 1) - first;
    ptrdiff_t from = chunk % blocks * block, to = cn_min(n, from + block);
    real room[2][SHORT * VL];
    const repeated mean = from_element(repeat(a->mean, room[0]), first, example);
    const repeated scale = from_element(repeat(a->scale, room[1]), first, example);
    v_check check = {0};
    for (ptrdiff_t i = from; i < to; i++) {
        ptrdiff_t row = (ptrdiff_t)step->index[i];
        ptrdiff_t next = (ptrdiff_t)step->index[cn_min(i + 1, to - 1)];
        if (row < 0 || row >= a->data.shape[0] ||
            (cn_present(a->labels) && row >= a->labels.shape[0])) {
            cn_fail(step, CN_BAD_INDEX);
            return;
        }
        real *x = (real *)a->x.data + i * example + first;
        if (parts > 1 && next >= 0 && next < a->data.shape[0])
            ask_for_values(a->data, next * example + first, length);
        read_values(a->data, row * example + first, length, x, &check);
        if (mean.values) subtract(x, length, mean);
        if (scale.values) multiply(x, length, scale);
        if (part == 0 && cn_present(a->labels)) {
            int64_t label = ((const int64_t *)a->labels.data)[row];
            if (label < 0 || label >= a->classes[0]) cn_fail(step, CN_BAD_LABEL);
            ((int64_t *)a->target.data)[i] = label;
        }
    }
    if (!v_all_finite(check)) cn_fail(step, CN_BAD_INPUT);
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
