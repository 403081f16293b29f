// Products of bfloat16 factors (AVX512-BF16, and AMX where it is there); see products.h.
//
// Without AMX, and up to FEW rows, weights are read once in the order in which they lie and every sum runs over 16 lanes; a row's result
// depends neither on the rows beside it nor on the number of threads. With more rows, arithmetic takes most of the time,
// and each panel of weights is rearranged for it first.

#pragma once

#include "codes.h"
#include "simd.h"

namespace {

constexpr int PANEL = 2 * LANES;  // outputs of one task
constexpr int TILE = 8;           // rows that are computed together, of few
constexpr int WIDE_TILE = 12;     // rows that are computed together, of many
constexpr int FEW = 16;

inline __m512bh load_pairs(const Factor* from) { return (__m512bh)_mm512_loadu_si512(from); }

// sums[2 r + o] += the lanes of x[r] . w[o], for two rows of weights; n is a multiple of 32.
template <int ROWS>
inline void accumulate(Vec (&sums)[LANES], const Factor* x, const Factor* w, int64_t n) {
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        const __m512bh one = load_pairs(w + i), two = load_pairs(w + n + i);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const __m512bh row = load_pairs(x + r * n + i);
            sums[2 * r] = _mm512_dpbf16_ps(sums[2 * r], row, one);
            sums[2 * r + 1] = _mm512_dpbf16_ps(sums[2 * r + 1], row, two);
        }
        // The next two rows: the processor's own prefetching ends with every page of 4 KiB.
        _mm_prefetch(reinterpret_cast<const char*>(w + 2 * n + i), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(w + 3 * n + i), _MM_HINT_T0);
    }
}

// The transpose of 16 rows of 16 pairs.
inline void transpose_pairs(const Factor* from, int64_t stride, Factor* to, int64_t to_stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; ++j) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; ++j) {
        a[j] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0x88);
        a[j + 8] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0xdd);
    }
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_stride, a[i]);
}

inline const CodedBlock* blocks_of(const Linear& layer, int64_t panel) {
    return static_cast<const CodedBlock*>(layer.weight) + panel * (layer.in / CODED);
}

}  // namespace

#ifdef __AMX_BF16__
#include "products_amx.h"
#else
namespace {
inline bool has_tiles() { return false; }
struct Tiles {
    Tiles() {}  // nothing to prepare
};
}  // namespace
#endif

namespace {

// Rows [PANEL, n] of weights -> [n / 2, PANEL, 2].
inline void pack_panel(const Factor* weight, int64_t n, Factor* packed) {
    for (int64_t i = 0; i < n; i += 2 * LANES)
        for (int half = 0; half < 2; ++half)
            transpose_pairs(weight + half * LANES * n + i, n, packed + i * PANEL + half * PANEL, 2 * PANEL);
}

template <int ROWS>
inline void accumulate_wide(Vec (&sums)[ROWS][2], const Factor* x, const Factor* packed, int64_t n) {
    for (int64_t p = 0; p < n / 2; ++p) {
        const __m512bh low = (__m512bh)_mm512_loadu_si512(packed + p * 2 * PANEL);
        const __m512bh high = (__m512bh)_mm512_loadu_si512(packed + p * 2 * PANEL + PANEL);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            int32_t pair;
            std::memcpy(&pair, x + r * n + 2 * p, 4);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], low, both);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], high, both);
        }
    }
}

// The weights of a panel, [PANEL, in]: in place, or decoded from their codes into this thread's memory.
inline const Factor* weight_of(const Linear& layer, int64_t panel) {
    if (!layer.is_low) return static_cast<const Factor*>(layer.weight) + panel * PANEL * layer.in;
    static thread_local std::vector<Factor> expanded;
    if (static_cast<int64_t>(expanded.size()) < PANEL * layer.in) expanded.resize(PANEL * layer.in);
    const __m512i shifts = shifts_of_codes();
    for (int64_t b = 0; b < layer.in / CODED; ++b) expand_block(blocks_of(layer, panel)[b], shifts, expanded.data() + b * CODED, layer.in);
    return expanded.data();
}

template <int ROWS>
void panel_rows(const Linear& layer, const Factor* weight, const Factor* x, const Factor* h, int64_t panel, float* y, int64_t y_stride) {
    for (int64_t o = panel * PANEL; o < std::min((panel + 1) * PANEL, layer.out); o += 2) {
        Vec sums[LANES];
        for (auto& sum : sums) sum = zeros();
        if (layer.rank) accumulate<ROWS>(sums, h, layer.b + o * layer.rank, layer.rank);
        accumulate<ROWS>(sums, x, weight + (o - panel * PANEL) * layer.in, layer.in);
        float totals[LANES];
        store(totals, sum_each(sums));
        for (int r = 0; r < ROWS; ++r)
            for (int i = 0; i < 2; ++i)
                y[r * y_stride + o - panel * PANEL + i] = totals[2 * r + i] + (layer.bias ? layer.bias[o + i] : 0.0f);
    }
}

template <int ROWS>
void few_rows(const Linear& layer, const Factor* weight, const Factor* x, const Factor* h, int64_t rows, int64_t panel, float* y, int64_t y_stride) {
    if (rows >= ROWS) return panel_rows<ROWS>(layer, weight, x, h, panel, y, y_stride);
    if constexpr (ROWS > 1) few_rows<ROWS - 1>(layer, weight, x, h, rows, panel, y, y_stride);
}

// y[r, 0..PANEL) of one panel for a few rows.
void few_rows_product(const Linear& layer, const Factor* weight, const Factor* x, const Factor* h, int64_t rows, int64_t panel, float* y, int64_t y_stride) {
    for (int64_t r = 0; r < rows; r += TILE)
        few_rows<TILE>(layer, weight, x + r * layer.in, h + r * layer.rank, rows - r, panel, y + r * y_stride, y_stride);
}

template <int ROWS>
void wide_rows(const Linear& layer, const Factor* x, const Factor* h, int64_t panel, const Factor* packed, float* y, int64_t y_stride) {
    Vec sums[ROWS][2];
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half)
            sums[r][half] = layer.bias ? load(layer.bias + panel * PANEL + half * LANES) : zeros();
    if (layer.rank) accumulate_wide<ROWS>(sums, h, packed + PANEL * layer.in, layer.rank);
    accumulate_wide<ROWS>(sums, x, packed, layer.in);
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half) store(y + r * y_stride + half * LANES, sums[r][half]);
}

inline Inputs inputs_of(const Factor* x, int64_t rows, int64_t n) {
    Inputs inputs{x, rows};
#ifdef __AMX_BF16__
    static thread_local std::vector<Factor> tiles;
    if (has_tiles()) inputs.x_tiles = lay_out_rows(x, rows, n, tiles);
#endif
    return inputs;
}

inline void set_inner(Inputs& inputs, const Factor* h, int64_t rank) {
    inputs.h = h;
#ifdef __AMX_BF16__
    static thread_local std::vector<Factor> tiles;
    if (has_tiles()) inputs.h_tiles = lay_out_rows(h, inputs.rows, rank, tiles);
#endif
}

// y[r, 0..PANEL) of one panel for any number of rows; a panel that is not whole counts as few rows.
inline void panel_product(const Linear& layer, const Inputs& inputs, int64_t panel, float* y, int64_t y_stride) {
    const auto& [x, rows, h, x_tiles, h_tiles] = inputs;
    const bool is_whole = (panel + 1) * PANEL <= layer.out;
#ifdef __AMX_BF16__
    if (x_tiles && is_whole) return tile_product(layer, x_tiles, h_tiles, rows, panel, y, y_stride);
#endif
    const Factor* weight = weight_of(layer, panel);
    if (rows <= FEW || !is_whole) return few_rows_product(layer, weight, x, h, rows, panel, y, y_stride);
    static thread_local std::vector<Factor> packed;
    packed.resize(PANEL * (layer.in + layer.rank));
    pack_panel(weight, layer.in, packed.data());
    if (layer.rank) pack_panel(layer.b + panel * PANEL * layer.rank, layer.rank, packed.data() + PANEL * layer.in);
    int64_t r = 0;
    for (; r + WIDE_TILE <= rows; r += WIDE_TILE)
        wide_rows<WIDE_TILE>(layer, x + r * layer.in, h + r * layer.rank, panel, packed.data(), y + r * y_stride, y_stride);
    for (; r + 4 <= rows; r += 4)
        wide_rows<4>(layer, x + r * layer.in, h + r * layer.rank, panel, packed.data(), y + r * y_stride, y_stride);
    for (; r < rows; ++r)
        wide_rows<1>(layer, x + r * layer.in, h + r * layer.rank, panel, packed.data(), y + r * y_stride, y_stride);
}

}  // namespace
