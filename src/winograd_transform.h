/* The transforms of winograd.h, along one dimension: values of polynomials at points, and back.
 *
 * The points are exact in binary and symmetric, so that even and odd terms are shared; of such
 * points they are, of those tried, the ones with the smallest error (on the choice: Barabasz et al.
 * 2020). */
#ifndef CN_WINOGRAD_TRANSFORM_H
#define CN_WINOGRAD_TRANSFORM_H

#include "simd.h"

/* One-dimensional transforms. A tile of `size` has the points 0, infinity and pairs +-p between;
 * `count` is that of the outputs or of the filter. */
enum { MOST = 10, MOST_PAIRS = 4 };
CN_INLINE int pairs_of(const int size) { return size / 2 - 1; }
CN_INLINE real pair_point(const int size, const int pair) {
    static const real points[][MOST_PAIRS] = {
        {1}, {0.75, 1.5}, {0.5, 1, 2}, {0.375, 0.75, 1.25, 3}};
    return points[pairs_of(size) - 1][pair];
}

/* Coefficients, in x^2, of the product of x^2 - p^2 over all pairs but one (or -1). Returns the
 * degree. */
CN_INLINE int product_of_others(const int size, const int but, real *coefficient) {
    int degree = 0;
    coefficient[0] = 1;
#pragma GCC unroll 4
    for (int pair = 0; pair < pairs_of(size); pair++) {
        if (pair == but) continue;
        const real square = pair_point(size, pair) * pair_point(size, pair);
        coefficient[degree + 1] = coefficient[degree];
#pragma GCC unroll 4
        for (int i = degree; i > 0; i--)
            coefficient[i] = coefficient[i - 1] - square * coefficient[i];
        coefficient[0] *= -square;
        degree++;
    }
    return degree;
}

/* Every other one of d, times the coefficients. */
CN_INLINE vec sum_of(const int degree, const real *coefficient, const vec *d) {
    vec sum = coefficient[0] * d[0];
#pragma GCC unroll 4
    for (int i = 1; i <= degree; i++) sum += coefficient[i] * d[2 * i];
    return sum;
}

/* B^T d: the input as values at the points. */
CN_INLINE void input_points(const int size, const vec *d, vec *out) {
    real coefficient[MOST_PAIRS + 1];
    int degree = product_of_others(size, -1, coefficient);
    out[0] = sum_of(degree, coefficient, d);
    out[size - 1] = sum_of(degree, coefficient, d + 1);
#pragma GCC unroll 4
    for (int pair = 0; pair < pairs_of(size); pair++) {
        degree = product_of_others(size, pair, coefficient);
        vec even = sum_of(degree, coefficient, d + 2);
        vec odd = pair_point(size, pair) * sum_of(degree, coefficient, d + 1);
        out[2 * pair + 1] = even + odd;
        out[2 * pair + 2] = even - odd;
    }
}

/* Values at the points of the polynomial with coefficients g; its transpose follows. */
CN_INLINE void evaluate(const int size, const int count, const vec *g, vec *out) {
    out[0] = g[0];
#pragma GCC unroll 4
    for (int pair = 0; pair < pairs_of(size); pair++) {
        const real point = pair_point(size, pair);
        vec even = g[0], odd = point * g[1];
        real power = point;
#pragma GCC unroll 8
        for (int i = 2; i < count; i++) {
            power *= point;
            if (i % 2)
                odd += power * g[i];
            else
                even += power * g[i];
        }
        out[2 * pair + 1] = even + odd;
        out[2 * pair + 2] = even - odd;
    }
    out[size - 1] = g[count - 1];
}
CN_INLINE void combine(const int size, const int count, const vec *u, vec *out) {
#pragma GCC unroll 4
    for (int pair = 0; pair < pairs_of(size); pair++) {
        vec sum = u[2 * pair + 1] + u[2 * pair + 2], difference = u[2 * pair + 1] - u[2 * pair + 2];
        real power = 1;
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) {
            vec term = power * (i % 2 ? difference : sum);
            out[i] = pair ? (vec)(out[i] + term) : term;
            power *= pair_point(size, pair);
        }
    }
    out[0] += u[0];
    out[count - 1] += u[size - 1];
}

/* Divides values at the points by the products of their differences from the other points. */
CN_INLINE void divide(const int size, const vec *in, vec *out) {
    real at_zero = 1;
#pragma GCC unroll 4
    for (int pair = 0; pair < pairs_of(size); pair++) {
        const real square = pair_point(size, pair) * pair_point(size, pair);
        real product = 2 * square;
#pragma GCC unroll 4
        for (int i = 0; i < pairs_of(size); i++)
            if (i != pair) product *= square - pair_point(size, i) * pair_point(size, i);
        out[2 * pair + 1] = 1 / product * in[2 * pair + 1];
        out[2 * pair + 2] = 1 / product * in[2 * pair + 2];
        at_zero *= -square;
    }
    out[0] = 1 / at_zero * in[0];
    out[size - 1] = in[size - 1];
}

typedef enum { INPUT, FILTER, OUTPUT, GRADIENT, FILTER_SUMS } transform_kind;

CN_INLINE void one_way(const transform_kind kind, const int size, const int count, const vec *in,
                       vec *out) {
    vec between[MOST];
    switch (kind) {
    case INPUT:
        input_points(size, in, out);
        break;
    case FILTER:
        evaluate(size, count, in, between);
        divide(size, between, out);
        break;
    case OUTPUT:
        combine(size, count, in, out);
        break;
    case GRADIENT:
        evaluate(size, count, in, out);
        break;
    case FILTER_SUMS:
        divide(size, in, between);
        combine(size, count, between, out);
        break;
    }
}

#endif
