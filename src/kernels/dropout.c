#include "dropout.h"

#include "elementwise.h"
#include "rng.h"

/* Elements that one call of the generator decides: 8 for each of its counters. */
enum { GROUP = 8 * CN_PHILOX_COUNTERS };

/* v where the lane's 16-bit draw is at most `largest`, else 0. */
CN_INLINE vec keep(const uint16_t *draws, uint16_t largest, vec v) {
#if defined(CN_AVX512) && CN_DOUBLE
    __m128i d = _mm_loadu_si128((const __m128i *)draws);
    return (vec)_mm512_maskz_mov_pd(_mm_cmple_epu16_mask(d, _mm_set1_epi16((short)largest)),
                                    (__m512d)v);
#elif defined(CN_AVX512)
    __m256i d = _mm256_loadu_si256((const __m256i *)draws);
    return (vec)_mm512_maskz_mov_ps(_mm256_cmple_epu16_mask(d, _mm256_set1_epi16((short)largest)),
                                    (__m512)v);
#else
    return v_select(v_load_u16(draws, VL) <= (bits)largest, v, (vec){0});
#endif
}

CN_INLINE void keep_each(const real *in, real *out, ptrdiff_t count, real scale,
                         const uint16_t *draws, uint16_t largest, int past) {
    V_EACH(j, 0, count, {
        vec v = v_load_n(in + j, some) * scale;
        v_put(out + j, keep(draws + j, largest, v), some, past);
    });
}

static const char *check(cn_tensor in, cn_tensor out, double keep_prob, ptrdiff_t ordinal,
                         ptrdiff_t inverted) {
    if (!elementwise_batch(in)) return "the input must have at least one element";
    if (!cn_same(out, in)) return "the result must have the shape of the input";
    if (!(keep_prob >= 0.5 / 65536 && keep_prob <= 1)) return "keep_prob must lie in (0, 1]";
    if (ordinal < 0 || ordinal >= 1 << 24) return "ordinal must lie in 0 .. 2^24-1";
    if (inverted != 0 && inverted != 1) return "inverted must be 0 or 1";
    return NULL;
}

static void keep_or_drop(const real *in, real *out, int past, ptrdiff_t from, ptrdiff_t end,
                         double keep_prob, ptrdiff_t ordinal, ptrdiff_t inverted,
                         const cn_step *step) {
    /* Kept if draw < round(65536 keep_prob), which may not fit 16 bits; one less does. */
    const uint16_t largest_kept = (uint16_t)((uint32_t)(65536 * keep_prob + 0.5) - 1);
    const real scale = inverted ? (real)(1 / keep_prob) : 1;
    const cn_philox_keys keys = cn_philox_schedule(step->seed);
    const uint64_t t = (uint64_t)step->t;
    uint32_t words[CN_PHILOX_COUNTERS][4];
    const uint16_t *draws = (const uint16_t *)words;
    for (ptrdiff_t i = from; i < end; i += GROUP) {
        cn_philox(words, &keys, (uint64_t)i / 8, t, CN_STREAM_DROPOUT, (uint32_t)ordinal);
        if (i + GROUP <= end)
            keep_each(in + i, out + i, GROUP, scale, draws, largest_kept, past);
        else
            keep_each(in + i, out + i, end - i, scale, draws, largest_kept, past);
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
    keep_or_drop(a->x.data, a->y.data, past_caches(a->y, a->x.data), chunk * ELEMENTWISE_CHUNK,
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
    keep_or_drop(a->dy.data, a->dx.data, past_caches(a->dx, a->dy.data), chunk * ELEMENTWISE_CHUNK,
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
