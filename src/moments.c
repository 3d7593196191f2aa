#include "moments.h"

#include "reduce.h"

/* A tile is (where it `begins`) or gets added the differences of rows from `first`, and their
 * squares. */
CN_INLINE void add_rows(const int nv, ptrdiff_t some, const real *x, const real *first,
                        ptrdiff_t rows, ptrdiff_t pitch, int begins, real *sums, real *squares) {
    vec shift[WIDE], sum[WIDE], square[WIDE];
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        ptrdiff_t left = some - v * VL;
        shift[v] = v_load_n(first + v * VL, left);
        sum[v] = begins ? (vec){0} : v_load_n(sums + v * VL, left);
        square[v] = begins ? (vec){0} : v_load_n(squares + v * VL, left);
    }
    for (ptrdiff_t k = 0; k < rows; k++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            vec difference = v_load_n(x + k * pitch + v * VL, some - v * VL) - shift[v];
            sum[v] += difference;
            square[v] += difference * difference;
        }
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        v_store_n(sums + v * VL, sum[v], some - v * VL);
        v_store_n(squares + v * VL, square[v], some - v * VL);
    }
}

/* Columns that a tile has room for, of longer rows a stretch at a time; and rows whose differences
 * are from one of them: not so many that, if it is an outlier, it weighs on all. */
enum { STRETCH = 1024, BLOCK = 1024 };

/* Sums over rows of x's c columns, of differences from the first row and of their squares. */
static void block_sums(double *sum, double *square, const real *x, ptrdiff_t rows, ptrdiff_t pitch,
                       ptrdiff_t c) {
    real sums[STRETCH], squares[STRETCH];
    ptrdiff_t at_once = rows_at_once(c, WIDE);
    for (ptrdiff_t j = 0; j < c; j++) sum[j] = square[j] = 0;
    for (ptrdiff_t i = 0; i < rows; i += REDUCE_TILE) {
        for (ptrdiff_t k = i; k < cn_min(rows, i + REDUCE_TILE); k += at_once) {
#define EACH(nv, some, j)                                                                          \
    add_rows(nv, some, x + k * pitch + j, x + j, cn_min(at_once, rows - k), pitch, k == i,         \
             sums + j, squares + j)
            COLUMNS(c, WIDE, EACH);
#undef EACH
        }
        for (ptrdiff_t j = 0; j < c; j += VL) {
            v_add_double(sum + j, v_load_n(sums + j, c - j), c - j);
            v_add_double(square + j, v_load_n(squares + j, c - j), c - j);
        }
    }
}

/* One column of `count` rows and then of `rows` more. */
CN_INLINE void merge(double *mean, double *squares, double count, double more_mean,
                     double more_squares, double rows) {
    double share = rows / (count + rows), difference = more_mean - *mean;
    *mean += difference * share;
    *squares += more_squares + difference * difference * (count * share);
}

void CN(row_moments)(double *part, const real *x, ptrdiff_t rows, ptrdiff_t c) {
    double sum[STRETCH], square[STRETCH];
    for (ptrdiff_t first = 0; first < c; first += STRETCH)
        for (ptrdiff_t from = 0; from < rows; from += BLOCK) {
            ptrdiff_t columns = cn_min(STRETCH, c - first), some = cn_min(BLOCK, rows - from);
            const real *block = x + from * c + first;
            block_sums(sum, square, block, some, c, columns);
            for (ptrdiff_t j = 0; j < columns; j++) {
                double shifted = sum[j] / (double)some, mean = (double)block[j] + shifted;
                double squares = square[j] - shifted * sum[j];
                if (from == 0)
                    part[first + j] = mean, part[c + first + j] = squares;
                else
                    merge(part + first + j, part + c + first + j, (double)from, mean, squares,
                          (double)some);
            }
        }
    part[2 * c] = (double)rows;
}

void CN(merge_moments)(real *mean, real *var, const double *parts, ptrdiff_t count, ptrdiff_t c,
                       ptrdiff_t chunk) {
    ptrdiff_t first = chunk * MOMENTS_COLUMNS, columns = cn_min(MOMENTS_COLUMNS, c - first);
    double means[MOMENTS_COLUMNS], squares[MOMENTS_COLUMNS], rows = parts[2 * c];
    memcpy(means, parts + first, (size_t)columns * sizeof(double));
    memcpy(squares, parts + c + first, (size_t)columns * sizeof(double));
    for (ptrdiff_t i = 1; i < count; i++) {
        const double *part = parts + i * moments_size(c);
        for (ptrdiff_t j = 0; j < columns; j++)
            merge(means + j, squares + j, rows, part[first + j], part[c + first + j], part[2 * c]);
        rows += part[2 * c];
    }
    for (ptrdiff_t j = 0; j < columns; j++) {
        mean[first + j] = (real)means[j];
        /* Rounding may leave a hair less than nothing; NaN stays. */
        var[first + j] = (real)(squares[j] < 0 ? 0 : squares[j] / rows);
    }
}
