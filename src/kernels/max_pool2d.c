#include "max_pool2d.h"

#include "simd.h"
#include "window.h"

static const char *check(cn_tensor x, cn_tensor y, cn_tensor winner, const ptrdiff_t *size,
                         const ptrdiff_t *stride, const ptrdiff_t *padding) {
    const char *wrong = window_check(x, y, size, stride, padding);
    if (wrong) return wrong;
    if (size[0] * size[1] > UINT16_MAX) return "the window must have at most 65535 pixels";
    if (!cn_same(winner, y)) return "winner must have the shape of y";
    return NULL;
}

/* One chunk an example: windows may overlap, so the rows of dx of one image belong together. */
static ptrdiff_t chunks(const void *args, ptrdiff_t n) {
    (void)args;
    return n;
}

static const char *forward_check(const void *args) {
    const max_pool2d_forward *a = args;
    return check(a->x, a->y, a->winner, a->size, a->stride, a->padding);
}

/* Places in a window, one for each lane. */
typedef uint16_t place_vec __attribute__((vector_size(2 * VL), aligned(2), may_alias));

/* The largest of up to VL channels over one window, and where it was. */
CN_INLINE void pool(const max_pool2d_forward *a, const real *image, window o, ptrdiff_t j,
                    ptrdiff_t some, real *y, uint16_t *winner) {
    ptrdiff_t w = a->x.shape[2], c = a->x.shape[3];
    vec best = {0};
    ivec where = {0};
    int first = 1;
    for (ptrdiff_t r = o.r0; r < o.r1; r++)
        for (ptrdiff_t s = o.s0; s < o.s1; s++) {
            vec v = v_load_n(image + ((o.row + r) * w + o.column + s) * c + j, some);
            /* Greater, or the first NaN. */
            ivec wins = first ? ~(ivec){0} : (ivec)((v > best) | ((v != v) & (best == best)));
            best = v_select(wins, v, best);
            where = (where & ~wins) | (wins & (bits)(r * a->size[1] + s));
            first = 0;
        }
    v_store_n(y + j, best, some);
    place_vec places = __builtin_convertvector(where, place_vec);
    memcpy(winner + j, &places, 2 * (size_t)cn_min(some, VL));
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const max_pool2d_forward *a = args;
    ptrdiff_t c = a->x.shape[3], example = cn_example(a->y);
    const real *image = (const real *)a->x.data + i * cn_example(a->x);
    real *y = (real *)a->y.data + i * example;
    uint16_t *winner = (uint16_t *)a->winner.data + i * example;
    for (ptrdiff_t p = 0; p < a->y.shape[1]; p++)
        for (ptrdiff_t q = 0; q < a->y.shape[2]; q++, y += c, winner += c) {
            window o = window_at(a->x, a->size, a->stride, a->padding, p, q);
            ptrdiff_t j = 0;
            for (; j + VL <= c; j += VL) pool(a, image, o, j, VL, y, winner);
            if (j < c) pool(a, image, o, j, c - j, y, winner);
        }
}

static const char *backward_check(const void *args) {
    const max_pool2d_backward *a = args;
    return check(a->dx, a->dy, a->winner, a->size, a->stride, a->padding);
}

/* Adds the gradient of up to VL channels to the pixel of the window that won. Only pixels of the
 * image are looked at, so that a winner not made by the forward pass does no harm. */
CN_INLINE void spread(const max_pool2d_backward *a, real *image, window o, ptrdiff_t j,
                      ptrdiff_t some, const real *dy, const uint16_t *winner) {
    ptrdiff_t w = a->dx.shape[2], c = a->dx.shape[3];
    place_vec places = {0};
    memcpy(&places, winner + j, 2 * (size_t)cn_min(some, VL));
    ivec where = __builtin_convertvector(places, ivec);
    vec g = v_load_n(dy + j, some);
    for (ptrdiff_t r = o.r0; r < o.r1; r++)
        for (ptrdiff_t s = o.s0; s < o.s1; s++) {
            real *dx = image + ((o.row + r) * w + o.column + s) * c + j;
            ivec won = where == (bits)(r * a->size[1] + s);
            v_store_n(dx, v_load_n(dx, some) + v_select(won, g, (vec){0}), some);
        }
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const max_pool2d_backward *a = args;
    ptrdiff_t c = a->dx.shape[3], example = cn_example(a->dy);
    real *dx = (real *)a->dx.data + i * cn_example(a->dx);
    memset(dx, 0, (size_t)cn_example(a->dx) * sizeof(real));
    const real *dy = (const real *)a->dy.data + i * example;
    const uint16_t *winner = (const uint16_t *)a->winner.data + i * example;
    for (ptrdiff_t p = 0; p < a->dy.shape[1]; p++)
        for (ptrdiff_t q = 0; q < a->dy.shape[2]; q++, dy += c, winner += c) {
            window o = window_at(a->dx, a->size, a->stride, a->padding, p, q);
            ptrdiff_t j = 0;
            for (; j + VL <= c; j += VL) spread(a, dx, o, j, VL, dy, winner);
            if (j < c) spread(a, dx, o, j, c - j, dy, winner);
        }
}

#define CN_ARGS_TYPE max_pool2d_forward
static const cn_kernel forward = {
    .name = "max_pool2d_forward",
    .args_size = sizeof(max_pool2d_forward),
    .fields = CN_TABLE(MAX_POOL2D_FORWARD),
    .check = forward_check,
    .stages = {{chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE max_pool2d_backward
static const cn_kernel backward = {
    .name = "max_pool2d_backward",
    .args_size = sizeof(max_pool2d_backward),
    .fields = CN_TABLE(MAX_POOL2D_BACKWARD),
    .check = backward_check,
    .stages = {{chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(max_pool2d)[] = {&forward, &backward, NULL};
