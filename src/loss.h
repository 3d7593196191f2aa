/* What losses over rows of scores share: blocks of rows, each with a partial sum in double, added
 * in order; and optional weights of the examples, so that loss = sum over i of weight_i loss_i / n.
 */
#ifndef CN_LOSS_H
#define CN_LOSS_H

#include "simd.h"

/* Rows of one chunk: near 4096 elements. */
CN_INLINE ptrdiff_t loss_block(cn_tensor x) { return cn_max(1, 4096 / x.shape[1]); }
CN_INLINE ptrdiff_t loss_blocks(cn_tensor x, ptrdiff_t n) { return cn_ceil_div(n, loss_block(x)); }
CN_INLINE ptrdiff_t loss_workspace(cn_tensor x) {
    return loss_blocks(x, x.shape[0]) * (ptrdiff_t)sizeof(double);
}

/* The last stage of a forward pass has one chunk, which adds the blocks' sums. */
CN_INLINE ptrdiff_t loss_one_chunk(const void *args, ptrdiff_t n) {
    (void)args, (void)n;
    return 1;
}
CN_INLINE void loss_add(const double *sums, ptrdiff_t blocks, ptrdiff_t n, cn_tensor loss) {
    double total = 0;
    for (ptrdiff_t i = 0; i < blocks; i++) total += sums[i];
    *(double *)loss.data = total / (double)n;
}

CN_INLINE real loss_weight(cn_tensor weight, ptrdiff_t i) {
    return weight.data ? ((const real *)weight.data)[i] : 1;
}

/* Scores, weights and the scalar; the target is the loss's own to check. */
CN_INLINE const char *loss_check(cn_tensor x, cn_tensor weight) {
    if (x.rank != 2 || cn_elements(x) < 1) return "x must have shape (n, m), none of them 0";
    if (!cn_optional(weight, 1, x.shape[0], 1, 1, 1)) return "weight must have shape (n,)";
    return NULL;
}

#endif
