/* Cutting elementwise work on batches into chunks. */
#ifndef CN_ELEMENTWISE_H
#define CN_ELEMENTWISE_H

#include "simd.h"

/* Elements of one chunk: a multiple of every vector length and of a Philox counter's draws. */
enum { ELEMENTWISE_CHUNK = 16384 };

CN_INLINE ptrdiff_t elementwise_chunks(cn_tensor x, ptrdiff_t n) {
    return cn_ceil_div(n * cn_example(x), ELEMENTWISE_CHUNK);
}
CN_INLINE ptrdiff_t elementwise_end(cn_tensor x, ptrdiff_t n, ptrdiff_t chunk) {
    return cn_min(n * cn_example(x), (chunk + 1) * ELEMENTWISE_CHUNK);
}

/* V_EACH (simd.h) of a chunk's elements i. */
#define ELEMENTWISE(x, n, chunk, ...)                                                              \
    V_EACH(i, (chunk) * ELEMENTWISE_CHUNK, elementwise_end(x, n, chunk), __VA_ARGS__)

/* A batch with at least one element. */
CN_INLINE int elementwise_batch(cn_tensor x) { return x.rank >= 1 && cn_elements(x) >= 1; }

#endif
