// Products of bfloat16 factors with float32 sums, for CPUs with AVX512-BF16, and what all kernels share.
//
// Up to FEW rows, weights are read once in the order in which they lie and every sum runs over 16 lanes; a row's result
// depends neither on the rows beside it nor on the number of threads. With more rows, arithmetic is what takes the time:
// a panel of weights is laid out anew for it first.

#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

constexpr int LANES = 16;          // float32 numbers in a register
constexpr int PANEL = 2 * LANES;   // outputs of one task
constexpr int TILE = 8;            // rows that are computed together, of few
constexpr int WIDE_TILE = 12;      // rows that are computed together, of many
constexpr int FEW = 16;

extern "C" {

// y = x W' + (x A') B' + bias, with W [out, in], A [rank, in] and B [out, rank]; rank 0: no adapter.
struct Linear {
    const uint16_t* weight;
    const uint16_t* a;
    const uint16_t* b;
    const float* bias;
    int64_t in, out, rank;
};
}

namespace {

inline uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline __m512bh load_bf16(const uint16_t* from, __mmask32 kept) { return (__m512bh)_mm512_maskz_loadu_epi16(kept, from); }

inline void store_bf16(uint16_t* to, __m512 values) {
    const __m256bh rounded = _mm512_cvtneps_pbh(values);
    std::memcpy(to, &rounded, 32);
}

// 16 registers -> one register of their 16 sums.
inline __m512 sum_each(const __m512 (&v)[LANES]) {
    __m512 a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i)
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; ++i) {
        const __m512d low = _mm512_castps_pd(a[2 * i]), high = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    }
    for (int i = 0; i < 2; ++i)
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// sums[2 r + o] += the lanes of x[r] . w[o] for 32 inputs of two rows of weights, or for those `kept`.
template <int ROWS>
inline void accumulate_32(__m512 (&sums)[LANES], const uint16_t* x, const uint16_t* w, int64_t n, __mmask32 kept) {
    const __m512bh first = load_bf16(w, kept), second = load_bf16(w + n, kept);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        const __m512bh row = load_bf16(x + r * n, kept);
        sums[2 * r] = _mm512_dpbf16_ps(sums[2 * r], row, first);
        sums[2 * r + 1] = _mm512_dpbf16_ps(sums[2 * r + 1], row, second);
    }
}

template <int ROWS>
inline void accumulate(__m512 (&sums)[LANES], const uint16_t* x, const uint16_t* w, int64_t n) {
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        accumulate_32<ROWS>(sums, x + i, w + i, n, ~0u);
        // The next two rows: the processor's own prefetching ends with every page of 4 KiB.
        _mm_prefetch(reinterpret_cast<const char*>(w + 2 * n + i), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(w + 3 * n + i), _MM_HINT_T0);
    }
    if (i < n) accumulate_32<ROWS>(sums, x + i, w + i, n, (1u << (n - i)) - 1);
}

template <int ROWS>
void panel_rows(const Linear& layer, const uint16_t* x, const uint16_t* h, int64_t panel, float* y, int64_t y_stride) {
    for (int64_t o = panel * PANEL; o < std::min((panel + 1) * PANEL, layer.out); o += 2) {
        __m512 sums[LANES];
        for (auto& sum : sums) sum = _mm512_setzero_ps();
        if (layer.rank) accumulate<ROWS>(sums, h, layer.b + o * layer.rank, layer.rank);
        accumulate<ROWS>(sums, x, layer.weight + o * layer.in, layer.in);
        float totals[LANES];
        _mm512_storeu_ps(totals, sum_each(sums));
        for (int r = 0; r < ROWS; ++r)
            for (int i = 0; i < 2; ++i)
                y[r * y_stride + o - panel * PANEL + i] = totals[2 * r + i] + (layer.bias ? layer.bias[o + i] : 0.0f);
    }
}

// y[r, 0..32) of one panel for a few rows.
void few_rows_product(const Linear& layer, const uint16_t* x, const uint16_t* h, int64_t rows, int64_t panel, float* y, int64_t y_stride) {
    for (int64_t r = 0; r < rows; r += TILE) {
        const uint16_t *xr = x + r * layer.in, *hr = h + r * layer.rank;
        float* yr = y + r * y_stride;
        switch (std::min<int64_t>(TILE, rows - r)) {
            case 1: panel_rows<1>(layer, xr, hr, panel, yr, y_stride); break;
            case 2: panel_rows<2>(layer, xr, hr, panel, yr, y_stride); break;
            case 3: panel_rows<3>(layer, xr, hr, panel, yr, y_stride); break;
            case 4: panel_rows<4>(layer, xr, hr, panel, yr, y_stride); break;
            case 5: panel_rows<5>(layer, xr, hr, panel, yr, y_stride); break;
            case 6: panel_rows<6>(layer, xr, hr, panel, yr, y_stride); break;
            case 7: panel_rows<7>(layer, xr, hr, panel, yr, y_stride); break;
            default: panel_rows<8>(layer, xr, hr, panel, yr, y_stride);
        }
    }
}

// The transpose of 16 rows of 16 pairs.
inline void transpose_pairs(const uint16_t* from, int64_t stride, uint16_t* to, int64_t to_stride) {
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

// Rows [32, n] of weights -> [n / 2, 32 rows, 2].
inline void pack_panel(const uint16_t* weight, int64_t n, uint16_t* packed) {
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int half = 0; half < 2; ++half)
            transpose_pairs(weight + half * LANES * n + i, n, packed + i * PANEL + half * PANEL, 2 * PANEL);
    for (; i < n; ++i)
        for (int o = 0; o < PANEL; ++o) packed[i / 2 * 2 * PANEL + 2 * o + i % 2] = weight[o * n + i];
}

template <int ROWS>
inline void accumulate_wide(__m512 (&sums)[ROWS][2], const uint16_t* x, const uint16_t* packed, int64_t n) {
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

template <int ROWS>
void wide_rows(const Linear& layer, const uint16_t* x, const uint16_t* h, int64_t panel, const uint16_t* packed, float* y, int64_t y_stride) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half)
            sums[r][half] = layer.bias ? _mm512_loadu_ps(layer.bias + panel * PANEL + half * LANES) : _mm512_setzero_ps();
    if (layer.rank) accumulate_wide<ROWS>(sums, h, packed + PANEL * layer.in, layer.rank);
    accumulate_wide<ROWS>(sums, x, packed, layer.in);
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half) _mm512_storeu_ps(y + r * y_stride + half * LANES, sums[r][half]);
}

// y[r, 0..32) of one panel for any number of rows; a panel that is not whole counts as few rows.
inline void panel_product(const Linear& layer, const uint16_t* x, const uint16_t* h, int64_t rows, int64_t panel, float* y, int64_t y_stride) {
    if (rows <= FEW || (panel + 1) * PANEL > layer.out) return few_rows_product(layer, x, h, rows, panel, y, y_stride);
    static thread_local std::vector<uint16_t> packed;
    packed.resize(PANEL * (layer.in + layer.rank));
    pack_panel(layer.weight + panel * PANEL * layer.in, layer.in, packed.data());
    if (layer.rank) pack_panel(layer.b + panel * PANEL * layer.rank, layer.rank, packed.data() + PANEL * layer.in);
    int64_t r = 0;
    for (; r + WIDE_TILE <= rows; r += WIDE_TILE)
        wide_rows<WIDE_TILE>(layer, x + r * layer.in, h + r * layer.rank, panel, packed.data(), y + r * y_stride, y_stride);
    for (; r + 4 <= rows; r += 4)
        wide_rows<4>(layer, x + r * layer.in, h + r * layer.rank, panel, packed.data(), y + r * y_stride, y_stride);
    for (; r < rows; ++r)
        wide_rows<1>(layer, x + r * layer.in, h + r * layer.rank, panel, packed.data(), y + r * y_stride, y_stride);
}

// e^x of 16 numbers to 2 units in the last place: 2^n times a polynomial of the rest.
inline __m512 exp16(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

}  // namespace
