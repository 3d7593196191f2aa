#include "gemv.h"

/* Rows of w at once: sums are fetched and put back for so many. The compiler fuses what gemm.c
 * multiplies and adds in one instruction, too: the build optimizes and says -ffp-contract=fast. */
enum { AT_ONCE = 8 };

/* y = (for the first rows) or += x w, from row l on, of a constant number of rows. */
CN_INLINE void add_rows(const int rows, const gemv *o, ptrdiff_t l) {
    const real *w = o->w + l * o->pitch;
    vec x[AT_ONCE];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) x[i] = v_set(o->x[l + i]);
    V_EACH(j, 0, o->columns, {
        vec sum = l ? v_load_n(o->y + j, some) : (vec){0};
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) sum += x[i] * v_load_n(w + i * o->pitch + j, some);
        v_store_n(o->y + j, sum, some);
    });
}

void CN(gemv_run)(const gemv *o) {
    ptrdiff_t l = 0;
    for (; l + AT_ONCE <= o->rows; l += AT_ONCE) add_rows(AT_ONCE, o, l);
    for (; l < o->rows; l++) add_rows(1, o, l);
    if (o->bias || o->relu)
        V_EACH(j, 0, o->columns, {
            vec sum = v_load_n(o->y + j, some);
            if (o->bias) sum += v_load_n(o->bias + j, some);
            v_store_n(o->y + j, o->relu ? v_relu(sum) : sum, some);
        });
}
