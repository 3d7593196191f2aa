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

static const char *forward_check(const void *args) {
    const max_pool2d_forward *a = args;
    return check(a->x, a->y, a->winner, a->size, a->stride, a->padding);
}

/* The largest of up to VL channels of a window's pixels in the image, and where it was. The window
 * begins at `corner`, perhaps outside; it has `pitch` from row to row, `across` places in a row.
 * The window `below` reals on is asked for: more rows at once than the processor would follow. */
CN_INLINE void pool(const real *image, ptrdiff_t corner, ptrdiff_t pitch, ptrdiff_t c,
                    ptrdiff_t below, const window o, const ptrdiff_t across, ptrdiff_t some,
                    real *y, uint16_t *winner) {
    vec best = {0};
    ivec where = {0};
    int first = 1;
    for (ptrdiff_t r = o.r0; r < o.r1; r++)
        for (ptrdiff_t s = o.s0; s < o.s1; s++) {
            const real *pixel = image + (corner + r * pitch + s * c);
            vec v = v_load_n(pixel, some);
            __builtin_prefetch(pixel + below);
            ivec wins = first ? ~(ivec){0} : v_wins(v, best);
            best = v_select(wins, v, best);
            where = (where & ~wins) | (wins & (bits)(r * across + s));
            first = 0;
        }
    v_store_n(y, best, some);
    v_store_u16(winner, where, some);
}

static ptrdiff_t forward_chunks(const void *args, ptrdiff_t n) {
    return n * window_blocks(((const max_pool2d_forward *)args)->y, n);
}

static void forward_run(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch) {
    (void)scratch;
    const max_pool2d_forward a = *(const max_pool2d_forward *)args; /* no store can change it */
    ptrdiff_t c = a.x.shape[3], pitch = a.x.shape[2] * c;
    ptrdiff_t below = a.stride[0] * pitch;
    window_rows rows = window_rows_of(a.y, step->n, chunk);
    const real *image = (const real *)a.x.data + rows.image * cn_example(a.x);
    ptrdiff_t result = rows.image * cn_example(a.y) + rows.first * a.y.shape[2] * c;
    real *y = (real *)a.y.data + result;
    uint16_t *winner = (uint16_t *)a.winner.data + result;
    for (ptrdiff_t p = rows.first; p < rows.end; p++)
        for (ptrdiff_t q = 0; q < a.y.shape[2]; q++, y += c, winner += c) {
            window o = window_at(a.x, a.size, a.stride, a.padding, p, q);
            ptrdiff_t corner = o.row * pitch + o.column * c;
            if (whole_2x2(o, a.size))
                V_EACH(j, 0, c, {
                    pool(image + corner + j, 0, pitch, c, below, WHOLE_2X2, 2, some, y + j,
                         winner + j);
                });
            else
                V_EACH(j, 0, c, {
                    pool(image, corner + j, pitch, c, below, o, a.size[1], some, y + j, winner + j);
                });
        }
}

/* One chunk an example: windows may overlap, so the rows of dx of one image belong together. */
static ptrdiff_t backward_chunks(const void *args, ptrdiff_t n) {
    (void)args;
    return n;
}

static const char *backward_check(const void *args) {
    const max_pool2d_backward *a = args;
    const char *wrong = check(a->dx, a->dy, a->winner, a->size, a->stride, a->padding);
    if (wrong) return wrong;
    if (a->relu && !cn_same(a->y, a->dy)) return "y must have the shape of dy";
    return NULL;
}

/* Gives the gradient of up to VL channels to the pixel of the window that won; or adds it to what
 * the pixels have. Only pixels of the image are looked at, so that a winner not made by the forward
 * pass does no harm. */
CN_INLINE void spread(real *image, ptrdiff_t corner, ptrdiff_t pitch, ptrdiff_t c, const window o,
                      const ptrdiff_t across, const int add, ptrdiff_t some, vec g,
                      const uint16_t *winner, int past) {
    ivec where = v_load_u16(winner, some);
    for (ptrdiff_t r = o.r0; r < o.r1; r++)
        for (ptrdiff_t s = o.s0; s < o.s1; s++) {
            real *dx = image + (corner + r * pitch + s * c);
            ivec won = where == (bits)(r * across + s);
            vec given = v_select(won, g, (vec){0});
            if (add) given += v_load_n(dx, some);
            v_put(dx, given, some, past);
        }
}

/* Where windows overlap, channels that fill no vector are added to the pixels that won, one by one:
 * a masked store holds up the load of the next window's. Of a window's places, by number: how far
 * they are from its corner, or OUTSIDE the image, as is what the forward pass does not give. */
enum { MOST_PLACES = 64, OUTSIDE = -1 };
typedef struct {
    window of;
    ptrdiff_t place[MOST_PLACES + 1];
} places;

static void find_places(places *found, const window o, ptrdiff_t pitch, ptrdiff_t c,
                        const ptrdiff_t *size) {
    ptrdiff_t *place = found->place;
    for (ptrdiff_t r = 0; r < size[0]; r++)
        for (ptrdiff_t s = 0; s < size[1]; s++)
            *place++ = r >= o.r0 && r < o.r1 && s >= o.s0 && s < o.s1 ? r * pitch + s * c : OUTSIDE;
    *place = OUTSIDE;
    found->of = o;
}

static void scatter(real *image, ptrdiff_t corner, const places *found, ptrdiff_t count,
                    const real *dy, const real *y, const uint16_t *winner, ptrdiff_t channels) {
    for (ptrdiff_t j = 0; j < channels; j++) {
        ptrdiff_t place = found->place[cn_min(winner[j], count)];
        if (place != OUTSIDE) image[corner + place + j] += !y || y[j] > 0 ? dy[j] : 0;
    }
}

/* The gradient of up to VL results; with a ReLU in front of the pooling, of those it let through.
 */
CN_INLINE vec gradient(const real *dy, const real *y, ptrdiff_t some) {
    vec g = v_load_n(dy, some);
    return y ? v_select(v_load_n(y, some) > 0, g, (vec){0}) : g;
}

static void backward_run(const void *args, const cn_step *step, ptrdiff_t i, void *scratch) {
    (void)step, (void)scratch;
    const max_pool2d_backward a = *(const max_pool2d_backward *)args; /* no store can change it */
    ptrdiff_t c = a.dx.shape[3], pitch = a.dx.shape[2] * c, example = cn_example(a.dy);
    int add = !windows_disjoint(a.size, a.stride);
    int all = windows_cover(a.dx, a.dy, a.size, a.stride, a.padding);
    int past = WHOLE_LINES && !add && all && rows_past_caches(a.dx, a.dy.data);
    real *dx = (real *)a.dx.data + i * cn_example(a.dx);
    if (!all) memset(dx, 0, (size_t)cn_example(a.dx) * sizeof(real));
    const real *dy = (const real *)a.dy.data + i * example;
    const real *y = a.relu ? (const real *)a.y.data + i * example : NULL;
    const uint16_t *winner = (const uint16_t *)a.winner.data + i * example;
    places found = {.of = {0}}; /* of no window */
    ptrdiff_t count = a.size[0] * a.size[1], tail = c % VL;
    int pays = add && count <= MOST_PLACES && (c < VL || tail <= VL / 4);
    ptrdiff_t one_by_one = pays ? tail : 0;
    ptrdiff_t whole = c - one_by_one;
    for (ptrdiff_t p = 0; p < a.dy.shape[1]; p++)
        for (ptrdiff_t q = 0; q < a.dy.shape[2]; q++, dy += c, y += y ? c : 0, winner += c) {
            window o = window_at(a.dx, a.size, a.stride, a.padding, p, q);
            ptrdiff_t corner = o.row * pitch + o.column * c;
            if (one_by_one) {
                if (!same_pixels(o, found.of)) find_places(&found, o, pitch, c, a.size);
                scatter(dx, corner + whole, &found, count, dy + whole, y ? y + whole : NULL,
                        winner + whole, one_by_one);
            }
            if (!add && whole_2x2(o, a.size))
                V_EACH(j, 0, c, {
                    spread(dx, corner + j, pitch, c, WHOLE_2X2, 2, 0, some,
                           gradient(dy + j, y ? y + j : NULL, some), winner + j, past);
                });
            else
                V_EACH(j, 0, whole, {
                    spread(dx, corner + j, pitch, c, o, a.size[1], add, some,
                           gradient(dy + j, y ? y + j : NULL, some), winner + j, past);
                });
        }
}

#define CN_ARGS_TYPE max_pool2d_forward
static const cn_kernel forward = {
    .name = "max_pool2d_forward",
    .args_size = sizeof(max_pool2d_forward),
    .fields = CN_TABLE(MAX_POOL2D_FORWARD),
    .check = forward_check,
    .stages = {{forward_chunks, forward_run}},
};
#undef CN_ARGS_TYPE
#define CN_ARGS_TYPE max_pool2d_backward
static const cn_kernel backward = {
    .name = "max_pool2d_backward",
    .args_size = sizeof(max_pool2d_backward),
    .fields = CN_TABLE(MAX_POOL2D_BACKWARD),
    .check = backward_check,
    .stages = {{backward_chunks, backward_run}},
};
#undef CN_ARGS_TYPE

const cn_kernel *const CN(max_pool2d)[] = {&forward, &backward, NULL};
