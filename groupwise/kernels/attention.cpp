// Attention of packed groups in a training pass, forward and backward: no work for keys that are masked. Inputs and
// outputs are float32; products are those of matrices.h.
//
// A pass is cut into segments: runs of tokens that attend to all of a context (the prompt of their group) and, causally,
// themselves. A task is one segment with one key/value head and all query heads that share it. Keys and values of the
// context come first, the segment's own follow. The gradients for a context are gathered segment by segment and added in the
// order of the segments, so the result does not depend on the number of threads.
//
// Shapes: H query heads, K key/value heads, T tokens of the pass, D head width, S keys of a segment.

#include "matrices.h"

extern "C" {

struct Segment {
    int64_t first, count;                  // tokens
    int64_t context_first, context_count;  // tokens that all of them attend to
};
static_assert(sizeof(Segment) == 4 * sizeof(int64_t), "Python passes segments as rows of four int64");
}

namespace {

constexpr int AT_ONCE = 96;  // queries whose scores exist at a time

// Context and own rows of one head below each other, [S, D].
void gather(const float* head, const Segment& segment, int64_t width, float* rows) {
    rows = std::copy_n(head + segment.context_first * width, segment.context_count * width, rows);
    std::copy_n(head + segment.first * width, segment.count * width, rows);
}

// One thread's memory for one task, and the right sides of its products.
struct Memory {
    std::vector<float> k, v, scores, slopes, dk, dv;
    Right keys, keys_transposed, values, values_transposed, queries, slope;

    void prepare(const float* k_head, const float* v_head, const Segment& segment, int64_t width, bool is_backward) {
        const int64_t num = segment.context_count + segment.count, all = whole_registers(num);
        for (auto* part : {&k, &v}) part->resize(num * width);
        gather(k_head, segment, width, k.data());
        gather(v_head, segment, width, v.data());
        keys_transposed.set_transposed(k.data(), num, width);
        scores.resize(AT_ONCE * all);
        if (!is_backward) return values.set(v.data(), num, width);
        values_transposed.set_transposed(v.data(), num, width);
        keys.set(k.data(), num, width);
        slopes.resize(AT_ONCE * all);
        for (auto* part : {&dk, &dv}) part->assign(all * width, 0.0f);
    }
};

thread_local Memory memory;

// Scores of `rows` queries, the first of them number `from` of its segment, against the keys they attend to: exp(s - lse) when
// `lse` is known, else it is computed and stored. Scores of other keys are 0.
void probabilities(const float* q, const Segment& segment, int64_t from, int64_t rows, int64_t width, float scaling, const Right& keys, float* scores, float* lse, bool is_known) {
    const int64_t stride = whole_registers(segment.context_count + segment.count), used = whole_registers(segment.context_count + from + rows);
    keys.multiply_by(q, width, 1, rows, width, scores, stride, used, false);
    for (int64_t r = 0; r < rows; ++r) {
        float* row = scores + r * stride;
        const int64_t seen = segment.context_count + from + r + 1, whole = seen / LANES * LANES;
        const Vec scale = all(scaling);
        float shift = is_known ? lse[r] : -INFINITY;
        if (!is_known) {
            const Vec lowest = all(-INFINITY);
            Vec most = lowest;
            for (int64_t s = 0; s < whole; s += LANES) most = max(most, load(row + s));
            if (whole < seen) most = max(most, load_or(lowest, first(seen - whole), row + whole));
            shift = max_of(most) * scaling;
        }
        Vec sum = zeros();
        for (int64_t s = 0; s < used; s += LANES) {
            const Vec z = mul_sub(load(row + s), scale, all(shift));
            Vec weight = exponential(z);
            if (s >= whole) weight = only(first(seen - s), weight);
            sum = add(sum, weight);
            store(row + s, weight);
        }
        if (is_known) continue;
        const float total = sum_of(sum);
        lse[r] = shift + std::log(total);
        const Vec inverse = all(1.0f / total);
        for (int64_t s = 0; s < used; s += LANES) store(row + s, mul(load(row + s), inverse));
    }
}

// The gradient of the products of q and k, from that of the weights in `slopes`: scaling w (dw - dout . out).
void slopes_of_scores(const float* weights, const float* dout, const float* out, int64_t rows, int64_t used, int64_t stride, int64_t width, float scaling, float* slopes) {
    for (int64_t r = 0; r < rows; ++r) {
        Vec sum = zeros();
        for (int64_t d = 0; d < width; d += LANES) sum = mul_add(load(dout + r * width + d), load(out + r * width + d), sum);
        const Vec mean = all(sum_of(sum)), scale = all(scaling);
        for (int64_t s = r * stride; s < r * stride + used; s += LANES)
            store(slopes + s, mul(mul(load(weights + s), scale), sub(load(slopes + s), mean)));
    }
}

}  // namespace

extern "C" {

// qkv [H + 2 K, T, D]: queries, keys, values -> out [H, T, D] and log-sum-exp of the scores [H, T].
void attention_forward(const float* qkv, const Segment* segments, int64_t num_segments, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, float scaling, float* out, float* lse) {
    const int64_t queries = heads / kv_heads, plane = tokens * width;
#pragma omp parallel
    {
        const Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < num_segments * kv_heads; ++task) {
            const Segment& segment = segments[task / kv_heads];
            const int64_t k = task % kv_heads, stride = whole_registers(segment.context_count + segment.count);
            Memory& m = memory;
            m.prepare(qkv + (heads + k) * plane, qkv + (heads + kv_heads + k) * plane, segment, width, false);
            for (int64_t h = k * queries; h < (k + 1) * queries; ++h)
                for (int64_t from = 0; from < segment.count; from += AT_ONCE) {
                    const int64_t rows = std::min<int64_t>(AT_ONCE, segment.count - from), at = h * tokens + segment.first + from;
                    probabilities(qkv + at * width, segment, from, rows, width, scaling, m.keys_transposed, m.scores.data(), lse + at, false);
                    m.values.multiply_by(m.scores.data(), stride, 1, rows, segment.context_count + from + rows, out + at * width, width, width, false);
                }
        }
    }
}

// dqkv [H + 2 K, T, D], zeroed before the call, from dout [H, T, D].
void attention_backward(const float* qkv, const Segment* segments, int64_t num_segments, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, float scaling, const float* out, float* lse, const float* dout, float* dqkv) {
    const int64_t queries = heads / kv_heads, plane = tokens * width;
    std::vector<int64_t> offset(num_segments + 1, 0);
    for (int64_t p = 0; p < num_segments; ++p) offset[p + 1] = offset[p] + segments[p].context_count;
    std::vector<float> context(2 * kv_heads * offset[num_segments] * width);  // [segments' contexts, K, 2, D] by segment
#pragma omp parallel
    {
        const Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < num_segments * kv_heads; ++task) {
            const int64_t p = task / kv_heads, k = task % kv_heads;
            const Segment& segment = segments[p];
            const int64_t stride = whole_registers(segment.context_count + segment.count);
            Memory& m = memory;
            m.prepare(qkv + (heads + k) * plane, qkv + (heads + kv_heads + k) * plane, segment, width, true);
            for (int64_t h = k * queries; h < (k + 1) * queries; ++h)
                for (int64_t from = 0; from < segment.count; from += AT_ONCE) {
                    const int64_t rows = std::min<int64_t>(AT_ONCE, segment.count - from), at = h * tokens + segment.first + from;
                    const int64_t seen = segment.context_count + from + rows, used = whole_registers(seen);
                    const float *q = qkv + at * width, *slope = dout + at * width;
                    float *scores = m.scores.data(), *slopes = m.slopes.data();
                    m.queries.set(q, rows, width);
                    m.slope.set(slope, rows, width);
                    probabilities(q, segment, from, rows, width, scaling, m.keys_transposed, scores, lse + at, true);
                    m.values_transposed.multiply_by(slope, width, 1, rows, width, slopes, stride, used, false);
                    m.slope.multiply_by(scores, 1, stride, seen, rows, m.dv.data(), width, width, true);
                    slopes_of_scores(scores, slope, out + at * width, rows, used, stride, width, scaling, slopes);
                    m.keys.multiply_by(slopes, stride, 1, rows, seen, dqkv + at * width, width, width, false);
                    m.queries.multiply_by(slopes, 1, stride, seen, rows, m.dk.data(), width, width, true);
                }
            float* kept = context.data() + 2 * (kv_heads * offset[p] + k * segment.context_count) * width;
            const int64_t context_size = segment.context_count * width, own_size = segment.count * width;
            std::copy_n(m.dk.data(), context_size, kept);
            std::copy_n(m.dv.data(), context_size, kept + context_size);
            std::copy_n(m.dk.data() + context_size, own_size, dqkv + (heads + k) * plane + segment.first * width);
            std::copy_n(m.dv.data() + context_size, own_size, dqkv + (heads + kv_heads + k) * plane + segment.first * width);
        }
    }
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < kv_heads; ++k)
        for (int64_t p = 0; p < num_segments; ++p) {
            const int64_t size = segments[p].context_count * width, first = segments[p].context_first * width;
            const float* kept = context.data() + 2 * (kv_heads * offset[p] * width + k * size);
            for (int half = 0; half < 2; ++half) {
                float* to = dqkv + (heads + half * kv_heads + k) * plane + first;
                for (int64_t i = 0; i < size; ++i) to[i] += kept[half * size + i];
            }
        }
}
}
