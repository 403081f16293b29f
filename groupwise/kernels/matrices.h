// Products of small float32 matrices whose right side is used several times: in the tiles of AMX where kernels are built
// for bfloat16 factors and have it, else in float32.

#pragma once

#include "multiply.h"
#include "products.h"

#if defined(BF16_FACTORS) && defined(__AMX_BF16__)
#include "multiply_amx.h"
#define MULTIPLIES_IN_TILES
#endif

namespace {

// The right side of a product, [depth, n], as it is read; n is a multiple of LANES.
class Right {
public:
    // Takes rows [depth, n], which must outlive it.
    void set(const float* rows, int64_t depth, int64_t n) {
        n_ = n;
        rows_ = rows;
#ifdef MULTIPLIES_IN_TILES
        if (!has_tiles()) return;
        make_room(depth, n);
        for (int64_t k = 0; k < whole_tiles(depth); k += 2)
            for (int64_t j = 0; j < n; j += LANES) {
                const Vec even = k < depth ? load(rows + k * n + j) : zeros(), odd = k + 1 < depth ? load(rows + (k + 1) * n + j) : zeros();
                _mm512_storeu_si512(factors_.data() + k * n + 2 * j, pairs_of(even, odd));
            }
#endif
    }

    // Takes the transpose of rows [num, depth]; n is num, filled up with columns of 0.
    void set_transposed(const float* rows, int64_t num, int64_t depth) {
        n_ = whole_registers(num);
#ifdef MULTIPLIES_IN_TILES
        if (has_tiles()) return pack_transposed(rows, num, depth);
#endif
        columns_.assign(depth * n_, 0.0f);
        for (int64_t s = 0; s < num; ++s)
            for (int64_t d = 0; d < depth; ++d) columns_[d * n_ + s] = rows[s * depth + d];
        rows_ = columns_.data();
    }

    // c[r, 0..n) (+)= sum over k < depth of a[r row + k column] right[k, 0..n); one of `row` and `column` is 1.
    void multiply_by(const float* a, int64_t row, int64_t column, int64_t rows, int64_t depth, float* c, int64_t c_row, int64_t n, bool adds) const {
#ifdef MULTIPLIES_IN_TILES
        if (has_tiles()) {
            static thread_local std::vector<Factor> left;
            pack_left(a, row, column, rows, depth, left);
            return multiply_packed(left.data(), whole_tiles(depth), factors_.data(), n_, rows, c, c_row, n, adds);
        }
#endif
        multiply(a, row, column, rows_, n_, rows, depth, c, c_row, n, adds);
    }

private:
#ifdef MULTIPLIES_IN_TILES
    void make_room(int64_t depth, int64_t n) {
        if (static_cast<int64_t>(factors_.size()) < whole_tiles(depth) * n) factors_.resize(whole_tiles(depth) * n);
    }

    void pack_transposed(const float* rows, int64_t num, int64_t depth) {
        make_room(depth, n_);
        for (int64_t s = 0; s < n_; s += BLOCK)
            for (int64_t k = 0; k < whole_tiles(depth); k += DEPTH) {
                alignas(64) Factor block[BLOCK * DEPTH];
                for (int64_t i = 0; i < BLOCK; ++i)
                    _mm512_store_si512(block + i * DEPTH, s + i < num ? factors_of(rows + (s + i) * depth + k, depth - k) : __m512i{});
                transpose_pairs(block, DEPTH, factors_.data() + k * n_ + 2 * s, 2 * n_);
            }
    }

    std::vector<Factor> factors_;
#endif
    std::vector<float> columns_;
    const float* rows_ = nullptr;
    int64_t n_ = 0;
};

}  // namespace
