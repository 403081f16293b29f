// Finds the 4-bit codes of a weight; see codes.h.

#ifdef BF16_FACTORS

#include "codes.h"

#include <atomic>
#include <utility>

namespace {

constexpr int BASES = 17;  // candidates for the base: float16 numbers around the smallest weight

float half_to_float(uint16_t bits) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))); }
template <int ROUNDING>
uint16_t float_to_half(float x) { return _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), ROUNDING), 0); }

// The numbers that round to a bfloat16 number reach half a step to each side of it.
struct Bounds {
    float low[CODED], high[CODED];
};

Bounds bounds_of(const float* numbers) {
    Bounds bounds;
    for (int i = 0; i < CODED; ++i) {
        uint32_t bits;
        std::memcpy(&bits, numbers + i, 4);
        const uint32_t beyond = bits + 0x8000, before = bits - 0x8000;
        float away, towards;  // in magnitude
        std::memcpy(&away, &beyond, 4);
        std::memcpy(&towards, &before, 4);
        if (!(bits & 0x7fffffff)) away = towards = 0.0f;  // zero is made by zero alone
        bounds.low[i] = std::min(away, towards);
        bounds.high[i] = std::max(away, towards);
    }
    return bounds;
}

// The steps that put every number within its bounds, to rounding.
std::pair<float, float> steps_between(const Bounds& bounds, const float* codes, float base) {
    Vec least = zeros(), most = all(INFINITY);
    for (int i = 0; i < CODED; i += LANES) {
        const Vec code = load(codes + i), inverse = div(all(1.0f), code);
        const Mask counts = above(code, 0.5f);
        least = _mm512_mask_max_ps(least, counts, least, mul(sub(load(bounds.low + i), all(base)), inverse));
        most = _mm512_mask_min_ps(most, counts, most, mul(sub(load(bounds.high + i), all(base)), inverse));
    }
    constexpr float ROUNDING = 1e-6f;
    return {max_of(least) * (1 - ROUNDING), _mm512_reduce_min_ps(most) * (1 + ROUNDING)};
}

bool gives_back(const Factor* weight, const float* codes, float step, float base) {
    for (int i = 0; i < CODED; i += LANES) {
        alignas(32) Factor made[LANES];
        store(made, mul_add(load(codes + i), all(step), all(base)));
        if (std::memcmp(made, weight + i, sizeof made)) return false;
    }
    return true;
}

// Stores 32 weights of output `o` as codes; false where they have none.
bool encode_row(const Factor* weight, CodedBlock& block, int o) {
    float numbers[CODED], codes[CODED];
    for (int i = 0; i < CODED; i += LANES) store(numbers + i, load(weight + i));
    const float smallest = *std::min_element(numbers, numbers + CODED), largest = *std::max_element(numbers, numbers + CODED);
    if (!(largest - smallest < INFINITY)) return false;
    const float guess = largest > smallest ? (largest - smallest) / MAX_CODE : 1.0f;
    uint8_t halves[CODED];
    for (int i = 0; i < CODED; ++i) {
        codes[i] = std::nearbyint((numbers[i] - smallest) / guess);
        if (!(codes[i] >= 0 && codes[i] <= MAX_CODE)) return false;  // not a number
        halves[place_of_code(i)] = static_cast<uint8_t>(codes[i]);
    }
    for (int i = 0; i < CODED / 2; ++i) block.codes[o][i] = halves[2 * i] | halves[2 * i + 1] << 4;
    const Bounds bounds = bounds_of(numbers);
    const uint16_t middle = float_to_half<_MM_FROUND_TO_NEAREST_INT>(smallest);
    for (int candidate = 0; candidate < BASES; ++candidate) {
        block.base[o] = middle + (candidate + 1) / 2 * (candidate % 2 ? 1 : -1);  // 0, 1, -1, 2, -2, ... away
        const float base = half_to_float(block.base[o]);
        const auto [from, to] = steps_between(bounds, codes, base);
        if (!(from <= to)) continue;
        block.step[o] = float_to_half<_MM_FROUND_TO_POS_INF>(from);
        for (float step; (step = half_to_float(block.step[o])) <= std::min(to, 4 * guess); ++block.step[o])
            if (gives_back(weight, codes, step, base)) return true;
    }
    return false;
}

}  // namespace

extern "C" {

// Bytes of the codes of a weight [out, in]; 0 where its sizes or this processor do not allow them.
int64_t coded_bytes(int64_t out, int64_t in) {
#ifdef HAS_CODES
    return out % CODED || in % CODED ? 0 : out / CODED * (in / CODED) * sizeof(CodedBlock);
#else
    return 0;
#endif
}

// Stores a weight [out, in] in codes; returns whether every block has them.
int64_t encode_weights(const Factor* weight, int64_t out, int64_t in, CodedBlock* to) {
    std::atomic<bool> fits{true};
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; ++o)
        for (int64_t b = 0; b < in / CODED && fits.load(std::memory_order_relaxed); ++b)
            if (!encode_row(weight + o * in + b * CODED, to[o / CODED * (in / CODED) + b], o % CODED)) fits = false;
    return fits;
}
}

#endif
