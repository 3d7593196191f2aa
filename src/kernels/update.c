#include "update.h"

#include "simd.h"

/* Chunks are dealt in the order of what part of its parameter each takes: first the beginnings of
 * all, at the end their ends. So a thread meets of each parameter the rows whose gradients it has
 * mostly made itself, and those do not travel from cache to cache. A group of chunks takes the same
 * sixteenth of each parameter, in whole lines of memory, and a chunk near CHUNK elements of it; a
 * small vector is one chunk. */
enum { CHUNK = 8192, GROUPS = 16, LINE = 64 / (int)sizeof(real) };

static ptrdiff_t chunks_of(cn_tensor w) {
    ptrdiff_t size = w.shape[0];
    return size <= CHUNK ? 1 : GROUPS * cn_ceil_div(size, GROUPS * CHUNK);
}

static const char *check(cn_tensor w, cn_tensor segments) {
    if (w.rank != 1 || w.shape[0] < 1) return "w must have shape (size,)";
    if (segments.rank != 2 || segments.shape[1] != 3) return "segments must have shape (count, 3)";
    return NULL;
}

/* For sgd and all whose arguments begin as sgd's do. */
static const char *update_check(const void *args) {
    const sgd_update *a = args;
    if (!cn_same(a->dw, a->w)) return "dw must have the shape of w";
    return check(a->w, a->segments);
}

static ptrdiff_t update_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    return chunks_of(((const sgd_update *)args)->w);
}

/* What one chunk and one segment have in common; walks the segments. */
typedef struct {
    const double *segment, *end;
    ptrdiff_t size, group, next_group;
    ptrdiff_t at, chunk_from, chunk_to; /* lines of the group: before the segment, of the chunk */
    ptrdiff_t from, to;                 /* of the current piece */
    double l2;
} pieces;

/* The group's part of the next segment, as from .. to; and its lines. */
static ptrdiff_t next_part(pieces *p) {
    /* Clamped as doubles: whatever the table says, a part lies in the vector. */
    double size = (double)p->size, from = p->segment[0], to = from + p->segment[1];
    ptrdiff_t first = !(from > 0) ? 0 : from < size ? (ptrdiff_t)from : p->size;
    ptrdiff_t end = !(to > (double)first) ? first : to < size ? (ptrdiff_t)to : p->size;
    ptrdiff_t lines = cn_ceil_div(end - first, LINE);
    ptrdiff_t before = lines * p->group / GROUPS, after = lines * p->next_group / GROUPS;
    p->from = first + before * LINE;
    p->to = cn_min(end, first + after * LINE);
    p->l2 = p->segment[2];
    p->segment += 3;
    return after - before;
}

static pieces pieces_of(cn_tensor w, cn_tensor segments, ptrdiff_t chunk) {
    const double *first = segments.data, *end = first + 3 * segments.shape[0];
    ptrdiff_t groups = cn_min(GROUPS, chunks_of(w)), chunks = chunks_of(w) / groups, lines = 0;
    ptrdiff_t group = chunk / chunks, next = groups == 1 ? GROUPS : group + 1;
    pieces p = {first, end, w.shape[0], group, next, 0, 0, 0, 0, 0, 0};
    while (p.segment < end) lines += next_part(&p);
    p.segment = first;
    p.chunk_from = cn_part(lines, chunks, chunk % chunks);
    p.chunk_to = cn_part(lines, chunks, chunk % chunks + 1);
    return p;
}

static int next_piece(pieces *p) {
    while (p->segment < p->end) {
        ptrdiff_t at = p->at, lines = next_part(p);
        ptrdiff_t first = cn_max(0, p->chunk_from - at), end = cn_min(lines, p->chunk_to - at);
        p->at += lines;
        if (first >= end) continue;
        if (end < lines) p->to = p->from + end * LINE;
        p->from += first * LINE;
        return 1;
    }
    return 0;
}

static void sgd_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const sgd_update *a = args;
    real *w = a->w.data;
    const real *dw = a->dw.data;
    const real lr = (real)step->lr;
    for (pieces p = pieces_of(a->w, a->segments, chunk); next_piece(&p);) {
        const real l2 = (real)p.l2;
        V_EACH(i, p.from, p.to, {
            vec x = v_load_n(w + i, some), g = v_load_n(dw + i, some) + l2 * x;
            v_store_n(w + i, x - lr * g, some);
        });
    }
}

/* For momentum and nesterov. */
static const char *momentum_check(const void *args) {
    const momentum_update *a = args;
    if (!cn_same(a->v, a->w)) return "v must have the shape of w";
    if (!(a->mu >= 0 && a->mu < 1)) return "mu must lie in [0, 1)";
    return update_check(args);
}

/* w follows the velocity; Nesterov's also takes back the old one and looks ahead with the new. */
CN_INLINE void follow(const momentum_update *a, real lr, ptrdiff_t chunk, const int look_ahead) {
    real *w = a->w.data, *v = a->v.data;
    const real *dw = a->dw.data;
    const real mu = (real)a->mu;
    for (pieces p = pieces_of(a->w, a->segments, chunk); next_piece(&p);) {
        const real l2 = (real)p.l2;
        V_EACH(i, p.from, p.to, {
            vec x = v_load_n(w + i, some), g = v_load_n(dw + i, some) + l2 * x;
            vec before = v_load_n(v + i, some), velocity = mu * before - lr * g;
            vec step = velocity;
            if (look_ahead) step = (1 + mu) * velocity - mu * before;
            v_store_n(v + i, velocity, some);
            v_store_n(w + i, x + step, some);
        });
    }
}

static void momentum_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    follow(args, (real)step->lr, chunk, 0);
}

static void nesterov_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    follow(args, (real)step->lr, chunk, 1);
}

/* So far above the smallest normal number that 0 / (sqrt(0) + eps) is 0. */
static const char *eps_check(double eps) {
    if (!((real)eps >= (CN_DOUBLE ? (real)1e-300 : (real)1e-30)))
        return "eps must be at least 1e-30 in float32, 1e-300 in float64";
    return NULL;
}

static const char *adagrad_check(const void *args) {
    const adagrad_update *a = args;
    if (!cn_same(a->cache, a->w)) return "cache must have the shape of w";
    const char *wrong = eps_check(a->eps);
    return wrong ? wrong : update_check(args);
}

/* AdaGrad and RMSProp differ in how much the cache keeps and takes. */
CN_INLINE void scale_by_cache(const adagrad_update *a, real lr, ptrdiff_t chunk, real keep,
                              real take) {
    real *w = a->w.data, *cache = a->cache.data;
    const real *dw = a->dw.data;
    const real eps = (real)a->eps;
    for (pieces p = pieces_of(a->w, a->segments, chunk); next_piece(&p);) {
        const real l2 = (real)p.l2;
        V_EACH(i, p.from, p.to, {
            vec x = v_load_n(w + i, some), g = v_load_n(dw + i, some) + l2 * x;
            vec squares = keep * v_load_n(cache + i, some) + take * (g * g);
            v_store_n(cache + i, squares, some);
            v_store_n(w + i, x - lr * g / (v_sqrt(squares) + eps), some);
        });
    }
}

static void adagrad_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    scale_by_cache(args, (real)step->lr, chunk, 1, 1);
}

static const char *rmsprop_check(const void *args) {
    const rmsprop_update *a = args;
    if (!(a->decay >= 0 && a->decay < 1)) return "decay must lie in [0, 1)";
    return adagrad_check(args);
}

static void rmsprop_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const rmsprop_update *a = args;
    scale_by_cache(args, (real)step->lr, chunk, (real)a->decay, (real)(1 - a->decay));
}

static const char *adam_check(const void *args) {
    const adam_update *a = args;
    if (!cn_same(a->m, a->w) || !cn_same(a->v, a->w)) return "m and v must have the shape of w";
    if (!(a->beta1 >= 0 && a->beta1 < 1)) return "beta1 must lie in [0, 1)";
    if (!(a->beta2 >= 0 && a->beta2 < 1)) return "beta2 must lie in [0, 1)";
    const char *wrong = eps_check(a->eps);
    return wrong ? wrong : update_check(args);
}

/* By repeated squaring: the C library's pow may change from one release to the next. */
static double power(double base, int64_t exponent) {
    double result = 1;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

static void adam_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const adam_update *a = args;
    real *w = a->w.data, *m = a->m.data, *v = a->v.data;
    const real *dw = a->dw.data;
    const real beta1 = (real)a->beta1, rest1 = (real)(1 - a->beta1);
    const real beta2 = (real)a->beta2, rest2 = (real)(1 - a->beta2), eps = (real)a->eps;
    const real rate = (real)(step->lr / (1 - power(a->beta1, step->t)));
    const real correction = (real)(1 / (1 - power(a->beta2, step->t)));
    for (pieces p = pieces_of(a->w, a->segments, chunk); next_piece(&p);) {
        const real l2 = (real)p.l2;
        V_EACH(i, p.from, p.to, {
            vec x = v_load_n(w + i, some), g = v_load_n(dw + i, some) + l2 * x;
            vec first = beta1 * v_load_n(m + i, some) + rest1 * g;
            vec second = beta2 * v_load_n(v + i, some) + rest2 * (g * g);
            v_store_n(m + i, first, some);
            v_store_n(v + i, second, some);
            v_store_n(w + i, x - rate * first / (v_sqrt(second * correction) + eps), some);
        });
    }
}

static const char *penalty_check(const void *args) {
    const l2_penalty_forward *a = args;
    if (!cn_is(a->penalty, 0, 1, 1, 1, 1)) return "penalty must be a scalar";
    return check(a->w, a->segments);
}

static ptrdiff_t penalty_workspace(const void *args) {
    return chunks_of(((const l2_penalty_forward *)args)->w) * (ptrdiff_t)sizeof(double);
}

static ptrdiff_t penalty_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    return chunks_of(((const l2_penalty_forward *)args)->w);
}

static void penalty_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)step, (void)scratch;
    const l2_penalty_forward *a = args;
    const real *w = a->w.data;
    double penalty = 0;
    for (pieces p = pieces_of(a->w, a->segments, chunk); next_piece(&p);) {
        if (p.l2 == 0) continue;
        double lanes[VL] = {0}, sum = 0;
        V_EACH(i, p.from, p.to, {
            vec x = v_load_n(w + i, some);
            for (int j = 0; j < VL; j++) lanes[j] += (double)x[j] * (double)x[j];
        });
        for (int j = 0; j < VL; j++) sum += lanes[j];
        penalty += 0.5 * p.l2 * sum;
    }
    ((double *)a->head.workspace)[chunk] = penalty;
}

static ptrdiff_t one(const void *args, ptrdiff_t n) {
    (void)args, (void)n;
    return 1;
}

static void penalty_sum(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)step, (void)chunk, (void)scratch;
    const l2_penalty_forward *a = args;
    double sum = 0;
    for (ptrdiff_t i = 0; i < chunks_of(a->w); i++) sum += ((double *)a->head.workspace)[i];
    *(double *)a->penalty.data = sum;
}

static void penalty_backward_run(const void *args, const cn_step *step, ptrdiff_t chunk,
                                 void *scratch) {
    (void)step, (void)scratch;
    const l2_penalty_backward *a = args;
    const real *w = a->w.data;
    real *dw = a->dw.data;
    for (pieces p = pieces_of(a->w, a->segments, chunk); next_piece(&p);) {
        const real l2 = (real)p.l2;
        V_EACH(i, p.from, p.to,
               v_store_n(dw + i, v_load_n(dw + i, some) + l2 * v_load_n(w + i, some), some));
    }
}

static const char *guard_check(const void *args) {
    const guard_forward *a = args;
    if (!cn_is(a->loss, 0, 1, 1, 1, 1)) return "loss must be a scalar";
    if (a->dw.rank != 1 || a->dw.shape[0] < 1) return "dw must have shape (size,)";
    return NULL;
}

static ptrdiff_t guard_chunks(const void *args, ptrdiff_t n) {
    (void)n;
    return chunks_of(((const guard_forward *)args)->dw);
}

static void guard_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const guard_forward *a = args;
    /* Chunks after the first leave a loss alone, so that the first reason is the one reported. */
    if (!__builtin_isfinite(*(const double *)a->loss.data)) {
        cn_fail(step, CN_NOT_FINITE_LOSS);
        return;
    }
    ptrdiff_t size = a->dw.shape[0], chunks = chunks_of(a->dw);
    ptrdiff_t from = cn_part(size, chunks, chunk), to = cn_part(size, chunks, chunk + 1);
    v_check check = {0};
    v_check_finite((const real *)a->dw.data + from, to - from, &check);
    if (!v_all_finite(check)) cn_fail(step, CN_NOT_FINITE_GRADIENT);
}

#define CN_ARGS_TYPE sgd_update
static const cn_kernel sgd = {
    .name = "sgd_update",
    .args_size = sizeof(sgd_update),
    .fields = CN_TABLE(SGD_UPDATE),
    .check = update_check,
    .stages = {{update_chunks, sgd_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE momentum_update
static const cn_kernel momentum = {
    .name = "momentum_update",
    .args_size = sizeof(momentum_update),
    .fields = CN_TABLE(MOMENTUM_UPDATE),
    .check = momentum_check,
    .stages = {{update_chunks, momentum_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE nesterov_update
static const cn_kernel nesterov = {
    .name = "nesterov_update",
    .args_size = sizeof(nesterov_update),
    .fields = CN_TABLE(NESTEROV_UPDATE),
    .check = momentum_check,
    .stages = {{update_chunks, nesterov_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE adagrad_update
static const cn_kernel adagrad = {
    .name = "adagrad_update",
    .args_size = sizeof(adagrad_update),
    .fields = CN_TABLE(ADAGRAD_UPDATE),
    .check = adagrad_check,
    .stages = {{update_chunks, adagrad_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE rmsprop_update
static const cn_kernel rmsprop = {
    .name = "rmsprop_update",
    .args_size = sizeof(rmsprop_update),
    .fields = CN_TABLE(RMSPROP_UPDATE),
    .check = rmsprop_check,
    .stages = {{update_chunks, rmsprop_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE adam_update
static const cn_kernel adam = {
    .name = "adam_update",
    .args_size = sizeof(adam_update),
    .fields = CN_TABLE(ADAM_UPDATE),
    .check = adam_check,
    .stages = {{update_chunks, adam_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE l2_penalty_forward
static const cn_kernel penalty_forward = {
    .name = "l2_penalty_forward",
    .args_size = sizeof(l2_penalty_forward),
    .fields = CN_TABLE(L2_PENALTY_FORWARD),
    .check = penalty_check,
    .workspace = penalty_workspace,
    .stages = {{penalty_chunks, penalty_run}, {one, penalty_sum}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE l2_penalty_backward
static const cn_kernel penalty_backward = {
    .name = "l2_penalty_backward",
    .args_size = sizeof(l2_penalty_backward),
    .fields = CN_TABLE(L2_PENALTY_BACKWARD),
    .check = update_check,
    .stages = {{update_chunks, penalty_backward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE guard_forward
static const cn_kernel guard = {
    .name = "guard_forward",
    .args_size = sizeof(guard_forward),
    .fields = CN_TABLE(GUARD_FORWARD),
    .check = guard_check,
    .stages = {{guard_chunks, guard_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(update)[] = {&sgd,     &momentum, &nesterov,        &adagrad,
                                       &rmsprop, &adam,     &penalty_forward, &penalty_backward,
                                       &guard,   NULL};
