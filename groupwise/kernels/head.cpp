// The output layer: logits of a chunk of tokens, and everything the loss reads off them in two passes over each row.
//
// Shapes: N tokens, I hidden width, V vocabulary.

#include "products.h"

extern "C" {

// logits NV = x W' + bias, in float32, of x [N, I] and W [V, I]; V is even.
void head_logits(const Factor* x, const void* weight, int64_t is_low, const float* bias, int64_t tokens, int64_t in, int64_t vocabulary, float* logits) {
    const Linear layer{weight, nullptr, nullptr, bias, in, vocabulary, 0, is_low};
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < (vocabulary + PANEL - 1) / PANEL; ++panel)
        panel_product(layer, x, nullptr, tokens, panel, logits + panel * PANEL, vocabulary);
}

// For z = logits * inverse_temperature and w = exp(z - max z): log-prob of the target, entropy, sum of w, and w itself
// as a factor where `weights` is not null.
void head_softmax(const float* logits, int64_t tokens, int64_t vocabulary, float inverse_temperature, const int64_t* target,
                  Factor* weights, float* logprob, float* entropy, float* total) {
    const Vec scale = all(inverse_temperature);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < tokens; ++n) {
        const float* row = logits + n * vocabulary;
        const int64_t whole = vocabulary / LANES * LANES;
        const Vec lowest = all(-INFINITY);
        Vec most = lowest;
        for (int64_t v = 0; v < whole; v += LANES) most = max(most, load(row + v));
        if (whole < vocabulary) most = max(most, load_or(lowest, first(vocabulary - whole), row + whole));
        const float largest = max_of(most) * inverse_temperature;
        const Vec shift = all(largest);
        Vec sum = zeros(), weighted = zeros();
        for (int64_t v = 0; v < vocabulary; v += LANES) {
            const Mask kept = first(vocabulary - v);
            const Vec z = mul_sub(load_or(zeros(), kept, row + v), scale, shift);
            const Vec w = only(kept, exponential(z));
            sum = add(sum, w);
            weighted = mul_add(w, z, weighted);
            if (weights) store_only(weights + n * vocabulary + v, kept, w);
        }
        total[n] = sum_of(sum);
        logprob[n] = row[target[n]] * inverse_temperature - largest - std::log(total[n]);
        entropy[n] = std::log(total[n]) - sum_of(weighted) / total[n];
    }
}
}
