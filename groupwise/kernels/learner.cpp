// The operations between the products of a decoder layer in a training pass, forward and backward, each in one sweep.
//
// Products take factors, the residual stream and attention are float32; these kernels convert on the way.
// Shapes: T tokens, I hidden width, F feed-forward width, H query heads, K key/value heads, D head width.

#include "simd.h"

extern "C" {

// y = x * inverse * w, inverse = 1 / sqrt(mean(x^2) + eps), kept for the backward pass.
void rms_norm_forward(const float* x, const float* weight, int64_t tokens, int64_t n, float eps, Factor* y, float* inverse) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
        const float* row = x + t * n;
        Vec sum = zeros();
        for (int64_t i = 0; i < n; i += LANES) {
            const Vec v = load(row + i);
            sum = mul_add(v, v, sum);
        }
        inverse[t] = 1.0f / std::sqrt(sum_of(sum) / n + eps);
        const Vec scale = all(inverse[t]);
        for (int64_t i = 0; i < n; i += LANES)
            store(y + t * n + i, mul(mul(load(row + i), scale), load(weight + i)));
    }
}

// dx = inverse (w dy) - x inverse^3 mean(x w dy)
void rms_norm_backward(const float* x, const float* weight, const float* inverse, const Factor* dy, int64_t tokens, int64_t n, float* dx) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
        const float* row = x + t * n;
        const Factor* slope = dy + t * n;
        Vec sum = zeros();
        for (int64_t i = 0; i < n; i += LANES)
            sum = mul_add(mul(load(slope + i), load(weight + i)), load(row + i), sum);
        const Vec scale = all(inverse[t]);
        const Vec pull = all(inverse[t] * inverse[t] * inverse[t] * sum_of(sum) / n);
        for (int64_t i = 0; i < n; i += LANES) {
            const Vec direct = mul(mul(load(slope + i), load(weight + i)), scale);
            store(dx + t * n + i, neg_mul_add(load(row + i), pull, direct));
        }
    }
}

// out [T, F] = silu(gate) * up, of y [T, 2 F] = gate, up
void silu_mul_forward(const Factor* y, int64_t tokens, int64_t width, Factor* out) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < width; i += LANES) {
            const Vec gate = load(y + t * 2 * width + i), up = load(y + t * 2 * width + width + i);
            store(out + t * width + i, mul(mul(gate, sigmoid(gate)), up));
        }
}

// dgate = d up s (1 + gate (1 - s)), dup = d gate s, with s = sigmoid(gate)
void silu_mul_backward(const Factor* y, const Factor* dout, int64_t tokens, int64_t width, Factor* dy) {
    const Vec one = all(1.0f);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t at = t * 2 * width + i;
            const Vec gate = load(y + at), up = load(y + at + width), d = load(dout + t * width + i);
            const Vec s = sigmoid(gate), bend = mul_add(gate, sub(one, s), one);
            store(dy + at, mul(mul(d, up), mul(s, bend)));
            store(dy + at + width, mul(d, mul(gate, s)));
        }
}

// y [T, (H + 2 K) D] -> rotated queries [H, T, D] and keys [K, T, D], values [K, T, D], in one block of float32 [H + 2 K, T, D].
void rotary_heads_forward(const Factor* y, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, int64_t rotary, float* out) {
    const int64_t all = heads + 2 * kv_heads, half = rotary / 2;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < all; ++h) {
            const Factor* from = y + (t * all + h) * width;
            float* to = out + (h * tokens + t) * width;
            for (int64_t i = 0; i < width; i += LANES) store(to + i, load(from + i));
            if (h >= heads + kv_heads) continue;
            const float *c = cos + t * rotary, *s = sin + t * rotary;
            for (int64_t i = 0; i < half; ++i) {
                const float first = to[i], second = to[half + i];
                to[i] = first * c[i] - second * s[i];
                to[half + i] = second * c[half + i] + first * s[half + i];
            }
        }
}

// The gradient of `rotary_heads_forward`; a head has at most 512 numbers.
void rotary_heads_backward(const float* dout, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, int64_t rotary, Factor* dy) {
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
            for (int64_t i = 0; i < width; i += LANES) store(dy + (t * all + h) * width + i, load(from + i));
        }
}

// float32 [H, T, D] -> factors [T, H D], and back.
void merge_heads(const float* x, int64_t tokens, int64_t heads, int64_t width, Factor* y) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < width; i += LANES) store(y + (t * heads + h) * width + i, load(x + (h * tokens + t) * width + i));
}

void split_heads(const Factor* y, int64_t tokens, int64_t heads, int64_t width, float* x) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < width; i += LANES) store(x + (h * tokens + t) * width + i, load(y + (t * heads + h) * width + i));
}
}
