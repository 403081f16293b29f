// Products of factors with float32 sums: y = x W' + (x A') B' + bias.
//
// `panel_product` computes one panel of outputs for some rows. Its method and the layout of the weights depend on the
// factors: products_bf16.h (and products_amx.h), products_float.h.

#pragma once

#include "simd.h"

extern "C" {

// y = x W' + (x A') B' + bias, with W [out, in], A [rank, in] and B [out, rank]; rank 0: no adapter.
struct Linear {
    const void* weight;
    const Factor* a;
    const Factor* b;
    const float* bias;
    int64_t in, out, rank;
    int64_t is_low;  // whether the weights are kept in fewer bits: bfloat16 for float32 factors, codes.h for bfloat16 ones
};
}

namespace {

// The inputs of a product. Every thread makes its own in the scope of a `Tiles`, one at a time.
struct Inputs {
    const Factor* x;  // [rows, in]
    int64_t rows;
    const Factor* h = nullptr;  // [rows, rank], the adapter's inner activations x A'
    const Factor *x_tiles = nullptr, *h_tiles = nullptr;  // x and h in the layout of tiles, where products use tiles
};

// Some of the rows, a multiple of 16 of them before the first.
inline Inputs part_of(const Inputs& inputs, const Linear& layer, int64_t first, int64_t count) {
    const int64_t x = first * layer.in, h = first * layer.rank;
    auto moved = [](const Factor* from, int64_t by) { return from ? from + by : nullptr; };
    return {inputs.x + x, count, moved(inputs.h, h), moved(inputs.x_tiles, x), moved(inputs.h_tiles, h)};
}

}  // namespace

#ifdef BF16_FACTORS
#include "products_bf16.h"
#else
#include "products_float.h"
#endif
