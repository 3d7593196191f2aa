#include "dropout.h"

#include "elementwise.h"
#include "rng.h"

/* Elements that one call of the generator decides: 8 for each of its counters. */
enum { GROUP = 8 * CN_PHILOX_COUNTERS };

/* One 16-bit draw for each lane of a vector. */
typedef uint16_t draw_vec __attribute__((vector_size(2 * VL), aligned(2), may_alias));

static const char *check(cn_tensor in, cn_tensor out, double keep_prob, ptrdiff_t ordinal,
                         ptrdiff_t inverted) {
    if (!elementwise_batch(in)) return "the input must have at least one element";
    if (!cn_same(out, in)) return "the result must have the shape of the input";
    if (!(keep_prob >= 0.5 / 65536 && keep_prob <= 1)) return "keep_prob must lie in (0, 1]";
    if (ordinal < 0 || ordinal >= 1 << 24) return "ordinal must lie in 0 .. 2^24-1";
    if (inverted != 0 && inverted != 1) return "inverted must be 0 or 1";
    return NULL;
}

static void keep_or_drop(const real *in, real *out, ptrdiff_t from, ptrdiff_t end, double keep_prob,
                         ptrdiff_t ordinal, ptrdiff_t inverted, const cn_step *step) {
    /* Kept if draw < round(65536 keep_prob), which may not fit 16 bits; one less does. */
    const uint16_t largest_kept = (uint16_t)((uint32_t)(65536 * keep_prob + 0.5) - 1);
    const real scale = inverted ? (real)(1 / keep_prob) : 1;
    uint32_t words[CN_PHILOX_COUNTERS][4];
    for (ptrdiff_t i = from; i < end; i += GROUP) {
        cn_philox(words, step->seed, (uint64_t)i / 8, (uint64_t)step->t, CN_STREAM_DROPOUT,
                  (uint32_t)ordinal);
        ptrdiff_t some = cn_min(GROUP, end - i);
        for (ptrdiff_t j = 0; j < some; j += VL) {
            draw_vec draws = *(const draw_vec *)((const uint16_t *)words + j);
            ivec kept = __builtin_convertvector(draws <= largest_kept, ivec);
            vec v = v_load_n(in + i + j, some - j);
            v_store_n(out + i + j, v_select(kept, v * scale, (vec){0}), some - j);
        }
    }
}

static const char *forward_check(const void *args) {
    const dropout_forward *a = args;
    return check(a->x, a->y, a->keep_prob, a->ordinal[0], a->inverted[0]);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const dropout_forward *)args)->x, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const dropout_forward *a = args;
    keep_or_drop(a->x.data, a->y.data, chunk * ELEMENTWISE_CHUNK,
                 elementwise_end(a->x, step->n, chunk), a->keep_prob, a->ordinal[0], a->inverted[0],
                 step);
}

static const char *backward_check(const void *args) {
    const dropout_backward *a = args;
    return check(a->dy, a->dx, a->keep_prob, a->ordinal[0], a->inverted[0]);
}

static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    return elementwise_chunks(((const dropout_backward *)args)->dy, n);
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const dropout_backward *a = args;
    keep_or_drop(a->dy.data, a->dx.data, chunk * ELEMENTWISE_CHUNK,
                 elementwise_end(a->dy, step->n, chunk), a->keep_prob, a->ordinal[0],
                 a->inverted[0], step);
}

#define CN_ARGS_TYPE dropout_forward
static const cn_kernel forward = {
    .name = "dropout_forward",
    .args_size = sizeof(dropout_forward),
    .fields = CN_TABLE(DROPOUT_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE dropout_backward
static const cn_kernel backward = {
    .name = "dropout_backward",
    .args_size = sizeof(dropout_backward),
    .fields = CN_TABLE(DROPOUT_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(dropout)[] = {&forward, &backward, NULL};
