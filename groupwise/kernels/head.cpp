// The output layer: logits of a chunk of tokens, and everything the loss reads off them in two passes over each row.
//
// Shapes: N tokens, I hidden width, V vocabulary.

#include "products.h"

namespace {

constexpr int64_t BLOCK_OF_WEIGHTS = 256;

float largest_of(const float* row, int64_t count) {
    const Vec lowest = all(-INFINITY);
    const int64_t whole = count / LANES * LANES;
    Vec most = lowest;
    for (int64_t v = 0; v < whole; v += LANES) most = max(most, load(row + v));
    if (whole < count) most = max(most, load_or(lowest, first(count - whole), row + whole));
    return max_of(most);
}

// weight = exp(z - largest) of at most one block of z = logits * inverse_temperature, 0 beyond `count`; returns their sum.
float weigh_block(const float* logits, int64_t count, float inverse_temperature, float largest, float* weight) {
    Vec sum = zeros();
    for (int64_t i = 0; i < BLOCK_OF_WEIGHTS; i += LANES) {
        const Mask kept = first(count - i);
        const Vec z = mul_sub(load_or(zeros(), kept, logits + i), all(inverse_temperature), all(largest));
        const Vec w = only(kept, only(above_or_nan(z, -87.0f), exponential(z)));  // exponential() never reaches 0
        store(weight + i, w);
        sum = add(sum, w);
    }
    return sum_of(sum);
}

}  // namespace

extern "C" {

// logits NV = x W' + bias, in float32, of x [N, I] and W [V, I]; V is even.
void head_logits(const Factor* x, const void* weight, int64_t is_low, const float* bias, int64_t tokens, int64_t in, int64_t vocabulary, float* logits) {
    const Linear layer{weight, nullptr, nullptr, bias, in, vocabulary, 0, is_low};
#pragma omp parallel
    {
        const Tiles tiles;
        const Inputs inputs = inputs_of(x, tokens, in);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < (vocabulary + PANEL - 1) / PANEL; ++panel)
            panel_product(layer, inputs, panel, logits + panel * PANEL, vocabulary);
    }
}

// For z = logits * inverse_temperature and w = exp(z - max z): log-prob of the target, entropy, sum of w, and w itself
// as a factor where `weights` is not null.
void head_softmax(const float* logits, int64_t tokens, int64_t vocabulary, float inverse_temperature, const int64_t* target,
                  Factor* weights, float* logprob, float* entropy, float* total) {
    const Vec scale = all(inverse_temperature);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < tokens; ++n) {
        const float* row = logits + n * vocabulary;
        const float largest = largest_of(row, vocabulary) * inverse_temperature;
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

// One token a row, drawn from softmax(z) with z = logits * inverse_temperature: the first whose cumulative probability
// exceeds the row's uniform, and its log-prob. Sums run over blocks first and between them in float64, so that a small
// probability late in the vocabulary is not lost.
void head_draw(const float* logits, int64_t rows, int64_t vocabulary, float inverse_temperature, const double* uniform,
               int64_t* token, float* logprob) {
    const int64_t blocks = (vocabulary + BLOCK_OF_WEIGHTS - 1) / BLOCK_OF_WEIGHTS;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = logits + r * vocabulary;
        const float largest = largest_of(row, vocabulary) * inverse_temperature;
        static thread_local std::vector<double> until;  // sum of weights up to the end of each block
        until.resize(blocks);
        float weight[BLOCK_OF_WEIGHTS];
        double total = 0;
        for (int64_t b = 0; b < blocks; ++b) {
            total += weigh_block(row + b * BLOCK_OF_WEIGHTS, vocabulary - b * BLOCK_OF_WEIGHTS, inverse_temperature, largest, weight);
            until[b] = total;
        }
        const double target = uniform[r] * total;
        const int64_t b = std::min(std::upper_bound(until.begin(), until.end(), target), std::lower_bound(until.begin(), until.end(), total)) - until.begin();
        weigh_block(row + b * BLOCK_OF_WEIGHTS, vocabulary - b * BLOCK_OF_WEIGHTS, inverse_temperature, largest, weight);
        const int64_t first = b * BLOCK_OF_WEIGHTS, count = std::min<int64_t>(BLOCK_OF_WEIGHTS, vocabulary - first);
        double reached = b ? until[b - 1] : 0;
        int64_t chosen = 0;
        for (int64_t i = 0; i < count; ++i) {
            if (!weight[i]) continue;
            chosen = i;  // rounding past the end falls back to the last one that has weight
            if ((reached += weight[i]) > target) break;
        }
        token[r] = first + chosen;
        logprob[r] = row[token[r]] * inverse_temperature - largest - static_cast<float>(std::log(total));
    }
}
}
