// The output layer: logits of a chunk of tokens, and everything the loss reads off them in two passes over each row.
//
// Shapes: N tokens, I hidden width, V vocabulary.

#include "products.h"

extern "C" {

// logits NV = x W' + bias, in float32, of bfloat16 x [N, I] and W [V, I]; V is even.
void head_logits(const uint16_t* x, const uint16_t* weight, const float* bias, int64_t tokens, int64_t in, int64_t vocabulary, float* logits) {
    const Linear layer{weight, nullptr, nullptr, bias, in, vocabulary, 0};
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < (vocabulary + PANEL - 1) / PANEL; ++panel)
        panel_product(layer, x, nullptr, tokens, panel, logits + panel * PANEL, vocabulary);
}

// For z = logits * inverse_temperature and w = exp(z - max z): log-prob of the target, entropy, sum of w, and w itself
// in bfloat16 where `weights` is not null.
void head_softmax(const float* logits, int64_t tokens, int64_t vocabulary, float inverse_temperature, const int64_t* target,
                  uint16_t* weights, float* logprob, float* entropy, float* total) {
    const __m512 scale = _mm512_set1_ps(inverse_temperature);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < tokens; ++n) {
        const float* row = logits + n * vocabulary;
        const int64_t whole = vocabulary / LANES * LANES;
        const __mmask16 tail = (1u << (vocabulary - whole)) - 1;
        const __m512 lowest = _mm512_set1_ps(-INFINITY);
        __m512 max16 = lowest;
        for (int64_t v = 0; v < whole; v += LANES) max16 = _mm512_max_ps(max16, _mm512_loadu_ps(row + v));
        if (tail) max16 = _mm512_max_ps(max16, _mm512_mask_loadu_ps(lowest, tail, row + whole));
        const float largest = _mm512_reduce_max_ps(max16) * inverse_temperature;
        const __m512 shift = _mm512_set1_ps(largest);
        __m512 sum = _mm512_setzero_ps(), weighted = _mm512_setzero_ps();
        for (int64_t v = 0; v < vocabulary; v += LANES) {
            const __mmask16 kept = v < whole ? 0xffff : tail;
            const __m512 z = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(kept, row + v), scale, shift);
            const __m512 w = _mm512_maskz_mov_ps(kept, exp16(z));
            sum = _mm512_add_ps(sum, w);
            weighted = _mm512_fmadd_ps(w, z, weighted);
            if (weights) {
                const __m256bh rounded = _mm512_cvtneps_pbh(w);
                __m256i bits;
                std::memcpy(&bits, &rounded, 32);
                _mm256_mask_storeu_epi16(weights + n * vocabulary + v, kept, bits);
            }
        }
        total[n] = _mm512_reduce_add_ps(sum);
        logprob[n] = row[target[n]] * inverse_temperature - largest - std::log(total[n]);
        entropy[n] = std::log(total[n]) - _mm512_reduce_add_ps(weighted) / total[n];
    }
}
}
