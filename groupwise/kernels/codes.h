// Weights of a 4-bit file (GGUF Q4_1), kept in 4 bits again: a decoding step then reads a third of the bytes.
//
// A block is 32 inputs of one output. It is kept as 32 codes of 4 bits, a step and a base, where
// `bfloat16(code * step + base)` is exactly the number. A weight matrix with a block that has no such codes stays in
// bfloat16, so results do not change.
//
// A panel of 32 outputs lies [in / 32 blocks]{codes [32 outputs, 16 bytes], steps [32], bases [32] in float16}.

#pragma once

#include "simd.h"

#ifdef __AVX512VBMI__
#define HAS_CODES
#endif

extern "C" {

struct CodedBlock {
    uint8_t codes[32][16];
    uint16_t step[32], base[32];
};
}

namespace {

constexpr int CODED = 32;  // inputs of a block, and outputs of a panel
constexpr int MAX_CODE = 15;

// Which of a block's 32 half bytes holds the code of an input: the order in which `expand_pair` takes them out.
inline int place_of_code(int input) { return input % 8 / 4 * 16 + input / 8 * 4 + input % 4; }

#ifdef HAS_CODES

// The shift that takes a half byte times two out of 64 bits, for each byte of a register: every number has two bytes.
inline __m512i shifts_of_codes() {
    alignas(64) uint8_t shifts[64];
    for (int byte = 0; byte < 64; ++byte) shifts[byte] = (place_of_code(byte / 2) % 16 * 4 - 1) & 63;
    return _mm512_load_si512(shifts);
}

// The 32 weights of two outputs: each code selects the bytes of one of the 16 numbers that the output's block can hold.
inline void expand_pair(const CodedBlock& block, int o, const float* step, const float* base, __m512i shifts, Factor* to, int64_t stride) {
    const Vec number = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const Vec even = mul_add(number, all(step[o]), all(base[o])), odd = mul_add(number, all(step[o + 1]), all(base[o + 1]));
    const __m512i values = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    for (int i = 0; i < 2; ++i) {
        const __m512i codes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block.codes[o + i])));
        const __m512i twice = _mm512_multishift_epi64_epi8(shifts, codes), first_byte = _mm512_set1_epi16(i ? 0x2120 : 0x0100);
        constexpr int BOTH_THEN_OR = 0xea;
        const __m512i bytes = _mm512_ternarylogic_epi32(twice, _mm512_set1_epi8(2 * MAX_CODE), first_byte, BOTH_THEN_OR);
        _mm512_storeu_si512(to + (o + i) * stride, _mm512_permutexvar_epi8(bytes, values));
    }
}

// One block of a panel, 32 outputs `stride` apart.
inline void expand_block(const CodedBlock& block, __m512i shifts, Factor* to, int64_t stride) {
    alignas(64) float step[CODED], base[CODED];
    for (int half = 0; half < CODED; half += LANES) {
        store(step + half, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.step + half))));
        store(base + half, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.base + half))));
    }
#pragma GCC unroll 4
    for (int o = 0; o < CODED; o += 2) expand_pair(block, o, step, base, shifts, to, stride);
}

#else

inline __m512i shifts_of_codes() { return _mm512_setzero_si512(); }
inline void expand_block(const CodedBlock&, __m512i, Factor*, int64_t) {}

#endif

}  // namespace
