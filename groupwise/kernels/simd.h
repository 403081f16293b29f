// Registers of float32 numbers, 16 with AVX-512 and 8 with AVX2, and factors: the numbers that products multiply, which
// are bfloat16 where the kernels are built with BF16_FACTORS (CPUs with AVX512-BF16) and float32 elsewhere.

#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#ifdef __AVX512F__

constexpr int LANES = 16;
using Vec = __m512;
using Mask = __mmask16;

inline Vec zeros() { return _mm512_setzero_ps(); }
inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline Vec load(const uint16_t* from) {  // bfloat16
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
inline void store(float* to, Vec v) { _mm512_storeu_ps(to, v); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }       // a b + c
inline Vec mul_sub(Vec a, Vec b, Vec c) { return _mm512_fmsub_ps(a, b, c); }       // a b - c
inline Vec neg_mul_add(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
inline float sum_of(Vec v) { return _mm512_reduce_add_ps(v); }
inline float max_of(Vec v) { return _mm512_reduce_max_ps(v); }

inline Mask first(int64_t n) { return n >= LANES ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }  // the first n numbers
inline Mask above(Vec v, float limit) { return _mm512_cmp_ps_mask(v, all(limit), _CMP_GT_OQ); }
inline Mask above_or_nan(Vec v, float limit) { return _mm512_cmp_ps_mask(v, all(limit), _CMP_NLE_UQ); }
inline Vec only(Mask kept, Vec v) { return _mm512_maskz_mov_ps(kept, v); }                 // 0 elsewhere
inline Vec load_or(Vec other, Mask kept, const float* from) { return _mm512_mask_loadu_ps(other, kept, from); }

inline Vec round_to_integer(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT); }
inline Vec scale_by_power(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }  // v 2^n for whole n

// LANES registers -> one register of their sums.
inline Vec sum_each(const Vec (&v)[LANES]) {
    Vec a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i)
        a[i] = add(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; ++i) {
        const __m512d low = _mm512_castps_pd(a[2 * i]), high = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    }
    for (int i = 0; i < 2; ++i)
        c[i] = add(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
    return add(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

#else

constexpr int LANES = 8;
using Vec = __m256;
using Mask = __m256;  // all bits of a kept number are set

inline Vec zeros() { return _mm256_setzero_ps(); }
inline Vec all(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
inline Vec load(const uint16_t* from) {  // bfloat16
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
inline void store(float* to, Vec v) { _mm256_storeu_ps(to, v); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }       // a b + c
inline Vec mul_sub(Vec a, Vec b, Vec c) { return _mm256_fmsub_ps(a, b, c); }       // a b - c
inline Vec neg_mul_add(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b

inline float sum_of(Vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

inline float max_of(Vec v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline Mask first(int64_t n) {  // the first n numbers
    const __m256i kept = _mm256_set1_epi32(static_cast<int>(std::clamp<int64_t>(n, 0, LANES)));
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(kept, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
inline Mask above(Vec v, float limit) { return _mm256_cmp_ps(v, all(limit), _CMP_GT_OQ); }
inline Mask above_or_nan(Vec v, float limit) { return _mm256_cmp_ps(v, all(limit), _CMP_NLE_UQ); }
inline Vec only(Mask kept, Vec v) { return _mm256_and_ps(kept, v); }  // 0 elsewhere
inline Vec load_or(Vec other, Mask kept, const float* from) {
    return _mm256_blendv_ps(other, _mm256_maskload_ps(from, _mm256_castps_si256(kept)), kept);
}

inline Vec round_to_integer(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scale_by_power(Vec v, Vec n) {  // v 2^n for whole n from -126 to 127
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return mul(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// LANES registers -> one register of their sums.
inline Vec sum_each(const Vec (&v)[LANES]) {
    const Vec a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const Vec b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

#endif

inline int64_t whole_registers(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// e^x to 2 units in the last place: 2^n times a polynomial of the rest. NaN stays NaN: max() returns its second operand.
inline Vec exponential(Vec x) {
    x = max(all(-87.0f), x);
    const Vec n = round_to_integer(mul(x, all(1.44269504f)));
    Vec r = neg_mul_add(n, all(0.693359375f), x);
    r = neg_mul_add(n, all(-2.12194440e-4f), r);
    Vec p = all(1.9875691500e-4f);
    p = mul_add(p, r, all(1.3981999507e-3f));
    p = mul_add(p, r, all(8.3334519073e-3f));
    p = mul_add(p, r, all(4.1665795894e-2f));
    p = mul_add(p, r, all(1.6666665459e-1f));
    p = mul_add(p, r, all(5.0000001201e-1f));
    p = mul_add(p, mul(r, r), add(r, all(1.0f)));
    return scale_by_power(p, n);
}

inline Vec sigmoid(Vec x) { return div(all(1.0f), add(all(1.0f), exponential(sub(zeros(), x)))); }

#ifdef BF16_FACTORS

using Factor = uint16_t;

inline Factor to_factor(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<Factor>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline __m256i rounded(Vec values) {
    const __m256bh numbers = _mm512_cvtneps_pbh(values);
    __m256i bits;
    std::memcpy(&bits, &numbers, 32);
    return bits;
}

inline void store(Factor* to, Vec values) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(values)); }
inline void store_only(Factor* to, Mask kept, Vec values) { _mm256_mask_storeu_epi16(to, kept, rounded(values)); }

#else

using Factor = float;

inline Factor to_factor(float value) { return value; }

#ifdef __AVX512F__
inline void store_only(Factor* to, Mask kept, Vec values) { _mm512_mask_storeu_ps(to, kept, values); }
#else
inline void store_only(Factor* to, Mask kept, Vec values) { _mm256_maskstore_ps(to, _mm256_castps_si256(kept), values); }
#endif

#endif

}  // namespace
