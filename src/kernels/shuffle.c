#include "shuffle.h"

#include "rng.h"

static const char *forward_check(const void *args) {
    const shuffle_forward *a = args;
    if (a->count[0] < 1) return "count must be at least 1";
    if (!cn_is(a->order, 1, a->count[0], 1, 1, 1)) return "order must have shape (count,)";
    if (a->ordinal[0] < 0 || a->ordinal[0] >= 1 << 24) return "ordinal must lie in 0 .. 2^24-1";
    return NULL;
}

/* Buckets by a draw's leading bits: from half as many as there are draws to as many, at least 2. */
static int bucket_bits(ptrdiff_t count) {
    int bits = 1;
    while (count >> (bits + 1)) bits++;
    return bits;
}

/* What one call of the generator gives. */
enum { GROUP = 2 * CN_PHILOX_COUNTERS };

/* The draws, in whole calls of the generator; the same in order; and where each bucket's next goes.
 */
static ptrdiff_t forward_workspace(const void *args) {
    ptrdiff_t count = ((const shuffle_forward *)args)->count[0];
    return 8 * (cn_round_up(count, GROUP) + count + ((ptrdiff_t)1 << bucket_bits(count)));
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    (void)args, (void)n;
    return 1;
}

static void draw(uint64_t *drawn, ptrdiff_t count, ptrdiff_t ordinal, const cn_step *step) {
    const cn_philox_keys keys = cn_philox_schedule(step->seed);
    for (ptrdiff_t i = 0; i < count; i += GROUP) {
        uint32_t words[CN_PHILOX_COUNTERS][4];
        cn_philox(words, &keys, (uint64_t)i / 2, (uint64_t)step->t, CN_STREAM_SHUFFLE,
                  (uint32_t)ordinal);
        memcpy(drawn + i, words, sizeof words);
    }
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)chunk, (void)scratch;
    const shuffle_forward *a = args;
    int64_t *order = a->order.data;
    ptrdiff_t count = a->count[0], buckets = (ptrdiff_t)1 << bucket_bits(count);
    uint64_t *drawn = a->head.workspace, *sorted = drawn + cn_round_up(count, GROUP);
    ptrdiff_t *next = (ptrdiff_t *)(sorted + count);
    int shift = 64 - bucket_bits(count);
    draw(drawn, count, a->ordinal[0], step);
    memset(next, 0, (size_t)buckets * sizeof *next);
    for (ptrdiff_t i = 0; i < count; i++) next[drawn[i] >> shift]++;
    for (ptrdiff_t bucket = 0, first = 0; bucket < buckets; bucket++) {
        ptrdiff_t draws = next[bucket];
        next[bucket] = first;
        first += draws;
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t at = next[drawn[i] >> shift]++;
        sorted[at] = drawn[i];
        order[at] = i;
    }
    /* By insertion, which moves nothing out of its bucket, and no equals past each other. */
    for (ptrdiff_t i = 1; i < count; i++) {
        uint64_t drawn_here = sorted[i];
        int64_t number = order[i];
        ptrdiff_t at = i;
        for (; at > 0 && sorted[at - 1] > drawn_here; at--) {
            sorted[at] = sorted[at - 1];
            order[at] = order[at - 1];
        }
        sorted[at] = drawn_here;
        order[at] = number;
    }
}

#define CN_ARGS_TYPE shuffle_forward
static const cn_kernel forward = {
    .name = "shuffle_forward",
    .args_size = sizeof(shuffle_forward),
    .fields = CN_TABLE(SHUFFLE_FORWARD),
    .check = forward_check,
    .workspace = forward_workspace,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(shuffle)[] = {&forward, NULL};
