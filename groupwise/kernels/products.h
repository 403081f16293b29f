// Products of factors with float32 sums: y = x W' + (x A') B' + bias.
//
// `panel_product` computes one panel of outputs for some rows. How it does that, and how the weights lie, differs with
// the factors: products_bf16.h, products_float.h.

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
    int64_t is_low;  // float32 factors: whether the weights are kept in bfloat16
};
}

#ifdef BF16_FACTORS
#include "products_bf16.h"
#else
#include "products_float.h"
#endif
