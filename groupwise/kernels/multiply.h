// Products of small float32 matrices, as attention takes them.

#pragma once

#include "simd.h"

namespace {

constexpr int ROWS = LANES == 16 ? 12 : 6;  // rows of a tile of products

// c[r, 0..n) (+)= sum_k a[r a_row + k a_col] b[k, 0..n); n is a multiple of LANES.
template <int R>
inline void multiply_tile(const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row, int64_t depth, float* c, int64_t c_row, int64_t n, bool adds) {
    int64_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES) {
        Vec sums[R][2];
        for (int r = 0; r < R; ++r)
            for (int half = 0; half < 2; ++half)
                sums[r][half] = adds ? load(c + r * c_row + j + half * LANES) : zeros();
        for (int64_t k = 0; k < depth; ++k) {
            const Vec low = load(b + k * b_row + j), high = load(b + k * b_row + j + LANES);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                const Vec factor = all(a[r * a_row + k * a_col]);
                sums[r][0] = mul_add(factor, low, sums[r][0]);
                sums[r][1] = mul_add(factor, high, sums[r][1]);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int half = 0; half < 2; ++half) store(c + r * c_row + j + half * LANES, sums[r][half]);
    }
    for (; j < n; j += LANES)
        for (int r = 0; r < R; ++r) {
            Vec sum = adds ? load(c + r * c_row + j) : zeros();
            for (int64_t k = 0; k < depth; ++k)
                sum = mul_add(all(a[r * a_row + k * a_col]), load(b + k * b_row + j), sum);
            store(c + r * c_row + j, sum);
        }
}

// The same product for any number of rows; a row's sums do not depend on the rows beside it.
inline void multiply(const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row, int64_t rows, int64_t depth, float* c, int64_t c_row, int64_t n, bool adds) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) multiply_tile<ROWS>(a + r * a_row, a_row, a_col, b, b_row, depth, c + r * c_row, c_row, n, adds);
    for (; r + 4 <= rows; r += 4) multiply_tile<4>(a + r * a_row, a_row, a_col, b, b_row, depth, c + r * c_row, c_row, n, adds);
    for (; r < rows; ++r) multiply_tile<1>(a + r * a_row, a_row, a_col, b, b_row, depth, c + r * c_row, c_row, n, adds);
}

}  // namespace
