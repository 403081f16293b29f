// Products of float32 factors (AVX2 or AVX-512); see products.h.
//
// Weights are laid out in panels [out / PANEL, in, PANEL] and read in the order of memory. They are float32, or bfloat16
// where every one of them is a bfloat16 number: half the bytes, the same numbers. A row's result depends neither on the
// rows beside it nor on the number of threads: each sum is taken by itself, input after input.

#pragma once

#include "simd.h"

namespace {

constexpr int PANEL = 2 * LANES;                  // outputs of one task
constexpr int TILE = LANES == 16 ? 12 : 6;        // rows that are computed together

// sums[r] += x[r] panel, over n inputs
template <int ROWS, class Weight>
inline void accumulate(Vec (&sums)[ROWS][2], const float* x, const Weight* panel, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(panel + (i + 64) * PANEL), _MM_HINT_T0);
        const Vec low = load(panel + i * PANEL), high = load(panel + i * PANEL + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const Vec factor = all(x[r * n + i]);
            sums[r][0] = mul_add(factor, low, sums[r][0]);
            sums[r][1] = mul_add(factor, high, sums[r][1]);
        }
    }
}

// y[r, 0..used) of one panel, whose weights are given, for ROWS rows.
template <int ROWS, class Weight>
void panel_rows(const Linear& layer, const Weight* weight, const float* x, const float* h, int64_t panel, int64_t used, float* y, int64_t y_stride) {
    const Mask low = first(used), high = first(used - LANES);
    Vec sums[ROWS][2];
    for (int r = 0; r < ROWS; ++r) {
        sums[r][0] = layer.bias ? load_or(zeros(), low, layer.bias + panel * PANEL) : zeros();
        sums[r][1] = layer.bias ? load_or(zeros(), high, layer.bias + panel * PANEL + LANES) : zeros();
    }
    if (layer.rank) accumulate<ROWS>(sums, h, layer.b + panel * PANEL * layer.rank, layer.rank);
    accumulate<ROWS>(sums, x, weight, layer.in);
    for (int r = 0; r < ROWS; ++r) {
        store_only(y + r * y_stride, low, sums[r][0]);
        store_only(y + r * y_stride + LANES, high, sums[r][1]);
    }
}

template <int ROWS, class Weight>
void panel_tile(const Linear& layer, const Weight* weight, const float* x, const float* h, int64_t rows, int64_t panel, int64_t used, float* y, int64_t y_stride) {
    if (rows >= ROWS) return panel_rows<ROWS>(layer, weight, x, h, panel, used, y, y_stride);
    if constexpr (ROWS > 1) panel_tile<ROWS - 1>(layer, weight, x, h, rows, panel, used, y, y_stride);
}

template <class Weight>
void panel_tiles(const Linear& layer, const Weight* weight, const float* x, const float* h, int64_t rows, int64_t panel, float* y, int64_t y_stride) {
    const int64_t used = std::min<int64_t>(PANEL, layer.out - panel * PANEL);
    for (int64_t r = 0, left = (rows + TILE - 1) / TILE; left > 0; --left) {  // tiles of about the same size
        const int64_t count = (rows - r + left - 1) / left;
        panel_tile<TILE>(layer, weight, x + r * layer.in, h + r * layer.rank, count, panel, used, y + r * y_stride, y_stride);
        r += count;
    }
}

// One panel of a layer's weights in float32, in this thread's memory where it was kept in bfloat16.
inline const float* expanded(const Linear& layer, int64_t panel) {
    if (!layer.is_low) return static_cast<const float*>(layer.weight) + panel * PANEL * layer.in;
    static thread_local std::vector<float> numbers;
    numbers.resize(PANEL * layer.in);
    const uint16_t* kept = static_cast<const uint16_t*>(layer.weight) + panel * PANEL * layer.in;
    for (int64_t i = 0; i < PANEL * layer.in; i += LANES) store(numbers.data() + i, load(kept + i));
    return numbers.data();
}

struct Tiles {
    Tiles() {}  // nothing to prepare
};

inline Inputs inputs_of(const float* x, int64_t rows, int64_t) { return {x, rows}; }

inline void set_inner(Inputs& inputs, const float* h, int64_t) { inputs.h = h; }

// y[r, 0..PANEL) of one panel for any number of rows; of the last panel, what there is.
inline void panel_product(const Linear& layer, const Inputs& inputs, int64_t panel, float* y, int64_t y_stride) {
    const int64_t rows = inputs.rows;
    if (layer.is_low && rows <= 4 * TILE) {
        const uint16_t* weight = static_cast<const uint16_t*>(layer.weight) + panel * PANEL * layer.in;
        return panel_tiles(layer, weight, inputs.x, inputs.h, rows, panel, y, y_stride);
    }
    panel_tiles(layer, expanded(layer, panel), inputs.x, inputs.h, rows, panel, y, y_stride);
}

}  // namespace
