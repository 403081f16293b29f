// What stands between the products of a decoder layer in a training pass, forward and backward, each in one sweep.
//
// Products take bfloat16, the residual stream and attention are float32; these kernels convert on the way.
// Shapes: T tokens, I hidden width, F feed-forward width, H query heads, K key/value heads, D head width.

#include "products.h"

namespace {

inline __m512 load_as_float(const uint16_t* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}

inline __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

}  // namespace

extern "C" {

// y = bf16(x * inverse * w), inverse = 1 / sqrt(mean(x^2) + eps), kept for the backward pass.
void rms_norm_forward(const float* x, const float* weight, int64_t tokens, int64_t n, float eps, uint16_t* y, float* inverse) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
        const float* row = x + t * n;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < n; i += LANES) {
            const __m512 v = _mm512_loadu_ps(row + i);
            sum = _mm512_fmadd_ps(v, v, sum);
        }
        inverse[t] = 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / n + eps);
        const __m512 scale = _mm512_set1_ps(inverse[t]);
        for (int64_t i = 0; i < n; i += LANES)
            store_bf16(y + t * n + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(row + i), scale), _mm512_loadu_ps(weight + i)));
    }
}

// dx = inverse (w dy) - x inverse^3 mean(x w dy)
void rms_norm_backward(const float* x, const float* weight, const float* inverse, const uint16_t* dy, int64_t tokens, int64_t n, float* dx) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
        const float* row = x + t * n;
        const uint16_t* slope = dy + t * n;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < n; i += LANES)
            sum = _mm512_fmadd_ps(_mm512_mul_ps(load_as_float(slope + i), _mm512_loadu_ps(weight + i)), _mm512_loadu_ps(row + i), sum);
        const __m512 scale = _mm512_set1_ps(inverse[t]);
        const __m512 pull = _mm512_set1_ps(inverse[t] * inverse[t] * inverse[t] * _mm512_reduce_add_ps(sum) / n);
        for (int64_t i = 0; i < n; i += LANES) {
            const __m512 direct = _mm512_mul_ps(_mm512_mul_ps(load_as_float(slope + i), _mm512_loadu_ps(weight + i)), scale);
            _mm512_storeu_ps(dx + t * n + i, _mm512_fnmadd_ps(_mm512_loadu_ps(row + i), pull, direct));
        }
    }
}

// out [T, F] = silu(gate) * up, of y [T, 2 F] = gate, up
void silu_mul_forward(const uint16_t* y, int64_t tokens, int64_t width, uint16_t* out) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < width; i += LANES) {
            const __m512 gate = load_as_float(y + t * 2 * width + i), up = load_as_float(y + t * 2 * width + width + i);
            store_bf16(out + t * width + i, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up));
        }
}

// dgate = d up s (1 + gate (1 - s)), dup = d gate s, with s = sigmoid(gate)
void silu_mul_backward(const uint16_t* y, const uint16_t* dout, int64_t tokens, int64_t width, uint16_t* dy) {
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t at = t * 2 * width + i;
            const __m512 gate = load_as_float(y + at), up = load_as_float(y + at + width), d = load_as_float(dout + t * width + i);
            const __m512 s = sigmoid(gate), bend = _mm512_fmadd_ps(gate, _mm512_sub_ps(one, s), one);
            store_bf16(dy + at, _mm512_mul_ps(_mm512_mul_ps(d, up), _mm512_mul_ps(s, bend)));
            store_bf16(dy + at + width, _mm512_mul_ps(d, _mm512_mul_ps(gate, s)));
        }
}

// y [T, (H + 2 K) D] -> rotated queries [H, T, D] and keys [K, T, D], values [K, T, D], in one block of float32 [H + 2 K, T, D].
void heads_forward(const uint16_t* y, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, int64_t rotary, float* out) {
    const int64_t all = heads + 2 * kv_heads, half = rotary / 2;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < all; ++h) {
            const uint16_t* from = y + (t * all + h) * width;
            float* to = out + (h * tokens + t) * width;
            for (int64_t i = 0; i < width; i += LANES) _mm512_storeu_ps(to + i, load_as_float(from + i));
            if (h >= heads + kv_heads) continue;
            const float *c = cos + t * rotary, *s = sin + t * rotary;
            for (int64_t i = 0; i < half; ++i) {
                const float first = to[i], second = to[half + i];
                to[i] = first * c[i] - second * s[i];
                to[half + i] = second * c[half + i] + first * s[half + i];
            }
        }
}

// The gradient of `heads_forward`; a head has at most 512 numbers.
void heads_backward(const float* dout, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, int64_t rotary, uint16_t* dy) {
    const int64_t all = heads + 2 * kv_heads, half = rotary / 2;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < all; ++h) {
            float from[512];
            std::copy_n(dout + (h * tokens + t) * width, width, from);
            if (h < heads + kv_heads) {
                const float *c = cos + t * rotary, *s = sin + t * rotary;
                for (int64_t i = 0; i < half; ++i) {
                    const float first = from[i], second = from[half + i];
                    from[i] = first * c[i] + second * s[half + i];
                    from[half + i] = second * c[half + i] - first * s[i];
                }
            }
            for (int64_t i = 0; i < width; i += LANES) store_bf16(dy + (t * all + h) * width + i, _mm512_loadu_ps(from + i));
        }
}

// float32 [H, T, D] -> bfloat16 [T, H D], and back.
void merge_heads(const float* x, int64_t tokens, int64_t heads, int64_t width, uint16_t* y) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < width; i += LANES) store_bf16(y + (t * heads + h) * width + i, _mm512_loadu_ps(x + (h * tokens + t) * width + i));
}

void split_heads(const uint16_t* y, int64_t tokens, int64_t heads, int64_t width, float* x) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < width; i += LANES) _mm512_storeu_ps(x + (h * tokens + t) * width + i, load_as_float(y + (t * heads + h) * width + i));
}
}
