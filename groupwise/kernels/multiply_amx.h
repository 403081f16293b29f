// Products of float32 matrices in the tiles of AMX: both sides are rounded to bfloat16, sums are float32.

#pragma once

#include "products.h"

namespace {

constexpr int DEPTH = 2 * LANES;  // depth of one tile

inline int64_t whole_tiles(int64_t depth) { return (depth + DEPTH - 1) / DEPTH * DEPTH; }

// 32 numbers of a row as factors, 0 beyond `count`.
inline __m512i factors_of(const float* from, int64_t count) {
    const Vec low = load_or(zeros(), first(count), from);
    const Vec high = count > LANES ? load_or(zeros(), first(count - LANES), from + LANES) : zeros();
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// 16 numbers of two rows as factors, those of one place side by side.
inline __m512i pairs_of(Vec even, Vec odd) {
    const __m512i low = _mm512_cvtepu16_epi32(rounded(even)), high = _mm512_cvtepu16_epi32(rounded(odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Rows of factors [rows, whole tiles of depth] of a[r row + k column], 0 beyond; one of `row` and `column` is 1.
inline void pack_left(const float* a, int64_t row, int64_t column, int64_t rows, int64_t depth, std::vector<Factor>& to) {
    const int64_t whole = whole_tiles(depth), padded = (rows + BLOCK - 1) / BLOCK * BLOCK;
    if (static_cast<int64_t>(to.size()) < padded * whole) to.resize(padded * whole);
    if (column == 1) {
        for (int64_t r = 0; r < padded; ++r)
            for (int64_t k = 0; k < whole; k += DEPTH)
                _mm512_storeu_si512(to.data() + r * whole + k, r < rows ? factors_of(a + r * row + k, depth - k) : __m512i{});
        return;
    }
    for (int64_t r = 0; r < padded; r += BLOCK)
        for (int64_t k = 0; k < whole; k += DEPTH) {
            alignas(64) Factor pairs[BLOCK * DEPTH];
            for (int64_t p = 0; p < DEPTH / 2; ++p) {
                auto part = [&](int64_t at) { return at < depth ? load_or(zeros(), first(rows - r), a + at * column + r) : zeros(); };
                _mm512_store_si512(pairs + p * DEPTH, pairs_of(part(k + 2 * p), part(k + 2 * p + 1)));
            }
            transpose_pairs(pairs, DEPTH, to.data() + r * whole + k, whole);
        }
}

// Tiles of one or two whole blocks of rows times one or two blocks of columns.
template <int ROW_BLOCKS, int COLUMN_BLOCKS>
inline void multiply_tiles(const Factor* left, int64_t whole, const Factor* right, int64_t right_n, float* c, int64_t c_row, bool adds) {
    constexpr bool TWO_ROWS = ROW_BLOCKS == 2, TWO_COLUMNS = COLUMN_BLOCKS == 2;
    float* next = c + BLOCK * c_row;  // the second block of rows
    if (adds) {
        _tile_loadd(0, c, 4 * c_row);
        if constexpr (TWO_COLUMNS) _tile_loadd(1, c + BLOCK, 4 * c_row);
        if constexpr (TWO_ROWS) _tile_loadd(2, next, 4 * c_row);
        if constexpr (TWO_ROWS && TWO_COLUMNS) _tile_loadd(3, next + BLOCK, 4 * c_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < whole; k += DEPTH) {
        _tile_loadd(4, left + k, 2 * whole);
        _tile_loadd(6, right + k * right_n, 4 * right_n);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (TWO_COLUMNS) _tile_loadd(7, right + k * right_n + DEPTH, 4 * right_n);
        if constexpr (TWO_COLUMNS) _tile_dpbf16ps(1, 4, 7);
        if constexpr (TWO_ROWS) _tile_loadd(5, left + BLOCK * whole + k, 2 * whole);
        if constexpr (TWO_ROWS) _tile_dpbf16ps(2, 5, 6);
        if constexpr (TWO_ROWS && TWO_COLUMNS) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * c_row);
    if constexpr (TWO_COLUMNS) _tile_stored(1, c + BLOCK, 4 * c_row);
    if constexpr (TWO_ROWS) _tile_stored(2, next, 4 * c_row);
    if constexpr (TWO_ROWS && TWO_COLUMNS) _tile_stored(3, next + BLOCK, 4 * c_row);
}

// The same for a last block that is not whole.
template <int COLUMN_BLOCKS>
inline void multiply_last_rows(const Factor* left, int64_t whole, const Factor* right, int64_t right_n, int64_t rows, float* c, int64_t c_row, bool adds) {
    constexpr int WIDTH = COLUMN_BLOCKS * BLOCK;
    alignas(64) float sums[BLOCK * WIDTH] = {};
    for (int64_t r = 0; adds && r < rows; ++r) std::copy_n(c + r * c_row, WIDTH, sums + r * WIDTH);
    multiply_tiles<1, COLUMN_BLOCKS>(left, whole, right, right_n, sums, WIDTH, adds);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(sums + r * WIDTH, WIDTH, c + r * c_row);
}

// The same for two blocks of columns, or one that is left.
template <int COLUMN_BLOCKS>
inline void multiply_columns(const Factor* left, int64_t whole, const Factor* right, int64_t right_n, int64_t rows, float* c, int64_t c_row, bool adds) {
    int64_t r = 0;
    for (; r + 2 * BLOCK <= rows; r += 2 * BLOCK) multiply_tiles<2, COLUMN_BLOCKS>(left + r * whole, whole, right, right_n, c + r * c_row, c_row, adds);
    if (r + BLOCK <= rows) multiply_tiles<1, COLUMN_BLOCKS>(left + r * whole, whole, right, right_n, c + r * c_row, c_row, adds), r += BLOCK;
    if (r < rows) multiply_last_rows<COLUMN_BLOCKS>(left + r * whole, whole, right, right_n, rows - r, c + r * c_row, c_row, adds);
}

// c[r, 0..n) (+)= left right, for a left side that is packed.
inline void multiply_packed(const Factor* left, int64_t whole, const Factor* right, int64_t right_n, int64_t rows, float* c, int64_t c_row, int64_t n, bool adds) {
    int64_t j = 0;
    for (; j + 2 * BLOCK <= n; j += 2 * BLOCK) multiply_columns<2>(left, whole, right + 2 * j, right_n, rows, c + j, c_row, adds);
    if (j < n) multiply_columns<1>(left, whole, right + 2 * j, right_n, rows, c + j, c_row, adds);
}

}  // namespace
