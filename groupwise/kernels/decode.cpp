// Decoding: one call computes decoder layers for a few rows, one after another.
//
// With few rows, reading memory takes the time of a step, not arithmetic: every weight is read once, in the order of
// memory, and what lies between the products (norms, rotation, attention, adapters, residuals) works on rows in cache.
// Products take factors and sum in float32. A row's result does not depend on the rows beside it, nor on the
// number of threads: every sum is taken by one thread in one order.
//
// Shapes: R rows, I input features, O output features, H query heads, K key/value heads, D head width.

#include <cstddef>

#include "multiply.h"
#include "products.h"

extern "C" {

struct Layer {
    Linear qkv, o, gate_up, down;
    const float *norm_in, *norm_post, *norm_q, *norm_k;
    int64_t heads, kv_heads, width, rotary;
    float eps, scaling;
    int64_t window;  // 0: none
};

// The rows of a step, R = cells * slots of them; a cell's rows share one prompt.
struct Step {
    float* x;                        // [R, I], the residual stream; updated in place
    const float *cos, *sin;          // [R, rotary]
    const int64_t* prompt_length;    // [cells]
    const int64_t* start;            // [R], first place of the row's own tokens
    int64_t cells, slots, longest, capacity, clock;  // `longest` is a multiple of LANES
    void* scratch;
};

// Keys and values of one layer.
struct KVCaches {
    const float *prompt_k, *prompt_v;  // [cells * K, D, longest], [cells * K, longest, D]
    float *own_k, *own_v;              // [cells * K, slots, capacity, D]
};
}

namespace {

constexpr int ROWS_A_TASK = 16;

// The inputs of a layer, with h = x A' [R, rank] written into `h`; called by all threads, ends in a barrier.
Inputs inputs_of_layer(const Linear& layer, const Factor* x, int64_t rows, Factor* h) {
    Inputs inputs = inputs_of(x, rows, layer.in);
    if (!layer.rank) return inputs;
    const Linear a{layer.a, nullptr, nullptr, nullptr, layer.in, layer.rank, 0, 0};
    const int64_t panels = (layer.rank + PANEL - 1) / PANEL, blocks = (rows + ROWS_A_TASK - 1) / ROWS_A_TASK;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < panels * blocks; ++task) {
        const int64_t panel = task % panels, first = task / panels * ROWS_A_TASK;
        const int64_t count = std::min<int64_t>(ROWS_A_TASK, rows - first);
        float y[ROWS_A_TASK * PANEL];
        panel_product(a, part_of(inputs, a, first, count), panel, y, PANEL);
        const int64_t used = std::min<int64_t>(PANEL, layer.rank - panel * PANEL);
        for (int64_t r = 0; r < count; ++r)
            for (int64_t j = 0; j < used; ++j) h[(first + r) * layer.rank + panel * PANEL + j] = to_factor(y[r * PANEL + j]);
    }
    set_inner(inputs, h, layer.rank);
    return inputs;
}

float inverse_rms(const float* x, int64_t n, float eps) {
    Vec sum = zeros();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Vec v = load(x + i);
        sum = mul_add(v, v, sum);
    }
    float total = sum_of(sum);
    for (; i < n; ++i) total += x[i] * x[i];
    return 1.0f / std::sqrt(total / n + eps);
}

// norm(x) for all rows; called by all threads, ends in a barrier.
void norm_rows(const float* x, const float* weight, int64_t rows, int64_t n, float eps, Factor* y) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        const float scale = inverse_rms(x + r * n, n, eps);
        for (int64_t i = 0; i < n; ++i) y[r * n + i] = to_factor(x[r * n + i] * scale * weight[i]);
    }
}

inline float dot(const float* a, const float* b, int64_t n) {
    Vec sum = zeros();
    for (int64_t i = 0; i < n; i += LANES) sum = mul_add(load(a + i), load(b + i), sum);
    return sum_of(sum);
}

inline void add_scaled(float* y, const float* x, float scale, int64_t n) {
    const Vec s = all(scale);
    for (int64_t i = 0; i < n; i += LANES)
        store(y + i, mul_add(s, load(x + i), load(y + i)));
}

// In place: the head's own norm, where there is one, then the rotation of its first `rotary` numbers.
void rotate_head(float* head, const float* norm, const Layer& layer, const float* cos, const float* sin) {
    if (norm) {
        const float scale = inverse_rms(head, layer.width, layer.eps);
        for (int64_t i = 0; i < layer.width; ++i) head[i] *= scale * norm[i];
    }
    const int64_t half = layer.rotary / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float first = head[i], second = head[half + i];
        head[i] = first * cos[i] - second * sin[i];
        head[half + i] = second * cos[half + i] + first * sin[half + i];
    }
}

// Scores of `count` keys.
void score_keys(const float* q, const float* keys, int64_t count, int64_t width, float* scores) {
    int64_t t = 0;
    for (; t + LANES <= count; t += LANES) {
        Vec sums[LANES];
        for (auto& sum : sums) sum = zeros();
        for (int64_t d = 0; d < width; d += LANES) {
            const Vec part = load(q + d);
#pragma GCC unroll 16
            for (int j = 0; j < LANES; ++j) sums[j] = mul_add(part, load(keys + (t + j) * width + d), sums[j]);
        }
        store(scores + t, sum_each(sums));
    }
    for (; t < count; ++t) scores[t] = dot(q, keys + t * width, width);
}

// out += the weighted sum of `count` values.
void mix_values(const float* weights, const float* values, int64_t count, int64_t width, float* out) {
    constexpr int PARTS = 4;
    for (int64_t d = 0; d < width; d += PARTS * LANES) {
        const int parts = std::min<int64_t>(PARTS, (width - d) / LANES);
        Vec even[PARTS], odd[PARTS];
        for (int i = 0; i < PARTS; ++i) even[i] = odd[i] = zeros();
        int64_t t = 0;
        for (; t + 2 <= count; t += 2)
            for (int i = 0; i < parts; ++i) {
                even[i] = mul_add(all(weights[t]), load(values + t * width + d + i * LANES), even[i]);
                odd[i] = mul_add(all(weights[t + 1]), load(values + (t + 1) * width + d + i * LANES), odd[i]);
            }
        for (int i = 0; i < parts; ++i) {
            if (t < count) even[i] = mul_add(all(weights[t]), load(values + t * width + d + i * LANES), even[i]);
            float* place = out + d + i * LANES;
            store(place, add(load(place), add(even[i], odd[i])));
        }
    }
}

// Attention of one key/value head k for a few rows of a cell, slots `first` to `first + count`.
struct Attention {
    const Layer& layer;
    const Step& step;
    const KVCaches& at;
    int64_t cell, k, first, count;
    int64_t queries = layer.heads / layer.kv_heads, width = layer.width;
    int64_t length = step.prompt_length[cell], stride = stride_of(step);

    // Scores of a row of queries: prompt keys first, own ones from `longest` on.
    static int64_t stride_of(const Step& step) { return step.longest + whole_registers(step.capacity); }
    // Number of slots that are computed together: enough rows for a tile of products.
    static int64_t slots_together(const Layer& layer) { return std::max<int64_t>(1, ROWS * layer.kv_heads / layer.heads); }
    // Numbers of a thread's memory: queries, outputs and scores of all rows.
    static int64_t memory(const Layer& layer, const Step& step) {
        return slots_together(layer) * (layer.heads / layer.kv_heads) * (2 * layer.width + stride_of(step));
    }

    const float* prompt(const float* part) const { return part + (cell * layer.kv_heads + k) * step.longest * width; }
    float* own(float* part, int64_t slot) const {
        return part + ((cell * layer.kv_heads + k) * step.slots + slot) * step.capacity * width;
    }

    // Writes the new keys and values to the cache, and the rotated queries [count * queries, D] to `q`.
    void store_kv(float* qkv, float* q) const {
        for (int64_t slot = first; slot < first + count; ++slot) {
            const int64_t row = cell * step.slots + slot;
            const float *cos = step.cos + row * layer.rotary, *sin = step.sin + row * layer.rotary;
            float *query = qkv + row * layer.qkv.out + k * queries * width, *key = qkv + row * layer.qkv.out + (layer.heads + k) * width;
            const float* value = key + layer.kv_heads * width;
            for (int64_t i = 0; i < queries; ++i) rotate_head(query + i * width, layer.norm_q, layer, cos, sin);
            rotate_head(key, layer.norm_k, layer, cos, sin);
            std::copy_n(key, width, own(at.own_k, slot) + step.clock * width);
            std::copy_n(value, width, own(at.own_v, slot) + step.clock * width);
            q = std::copy_n(query, queries * width, q);
        }
    }

    // First own place that a row sees, and first place of the prompt.
    std::pair<int64_t, int64_t> seen_from(int64_t slot) const {
        const int64_t start = step.start[cell * step.slots + slot], position = length + step.clock - start;
        if (!layer.window) return {start, 0};
        return {std::max(start, step.clock - layer.window + 1), std::clamp<int64_t>(position - layer.window + 1, 0, length)};
    }

    // Scores of one row -> weights that sum to 1 over prompt and own keys together.
    void softmax(float* prompt_scores, int64_t prompt_from, float* own_scores, int64_t num_own) const {
        std::fill_n(prompt_scores, prompt_from, -INFINITY);
        std::fill(prompt_scores + length, prompt_scores + step.longest, -INFINITY);
        std::fill(own_scores + num_own, own_scores + whole_registers(num_own), -INFINITY);
        const std::pair<float*, int64_t> parts[] = {{prompt_scores, step.longest}, {own_scores, num_own}};
        Vec most = all(-INFINITY);
        for (auto [scores, num] : parts)
            for (int64_t t = 0; t < num; t += LANES) most = max(most, load(scores + t));
        const Vec largest = all(max_of(most));
        Vec total = zeros();
        for (auto [scores, num] : parts)
            for (int64_t t = 0; t < num; t += LANES) {
                const Vec inside = mul(sub(load(scores + t), largest), all(layer.scaling));
                const Vec weight = only(above_or_nan(inside, -1e30f), exponential(inside));
                total = add(total, weight);
                store(scores + t, weight);
            }
        const Vec inverse = all(1.0f / sum_of(total));
        for (auto [scores, num] : parts)
            for (int64_t t = 0; t < num; t += LANES) store(scores + t, mul(load(scores + t), inverse));
    }

    // Computes `attended` [R, H D] of these rows; `memory` is scratch.
    void run(float* qkv, float* memory, Factor* attended) const {
        const int64_t rows = count * queries;
        float *q = memory, *out = q + rows * width, *scores = out + rows * width;
        store_kv(qkv, q);
        multiply(q, width, 1, prompt(at.prompt_k), step.longest, rows, width, scores, stride, step.longest, false);
        for (int64_t r = 0; r < rows; ++r) {
            const auto [own_from, prompt_from] = seen_from(first + r / queries);
            const int64_t num_own = step.clock + 1 - own_from;
            float* own_scores = scores + r * stride + step.longest;
            score_keys(q + r * width, own(at.own_k, first + r / queries) + own_from * width, num_own, width, own_scores);
            softmax(scores + r * stride, prompt_from, own_scores, num_own);
        }
        multiply(scores, stride, 1, prompt(at.prompt_v), width, rows, length, out, width, width, false);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t slot = first + r / queries, own_from = seen_from(slot).first;
            float* mixed = out + r * width;
            mix_values(scores + r * stride + step.longest, own(at.own_v, slot) + own_from * width, step.clock + 1 - own_from, width, mixed);
            Factor* to = attended + ((cell * step.slots + slot) * layer.heads + k * queries + r % queries) * width;
            for (int64_t i = 0; i < width; i += LANES) store(to + i, load(mixed + i));
        }
    }
};

// Places of one layer's intermediate values in the scratch memory.
struct Scratch {
    Factor *x, *h, *attended, *active;
    float *qkv, *attention;

    Scratch(const Layer& layer, const Step& step) {
        const int64_t rows = step.cells * step.slots;
        const int64_t ranks = std::max(std::max(layer.qkv.rank, layer.o.rank), std::max(layer.gate_up.rank, layer.down.rank));
        char* next = static_cast<char*>(step.scratch);
        auto take = [&next](int64_t bytes) { char* place = next; next += (bytes + 63) / 64 * 64; return place; };
        x = reinterpret_cast<Factor*>(take(sizeof(Factor) * rows * layer.qkv.in));
        h = reinterpret_cast<Factor*>(take(sizeof(Factor) * rows * ranks));
        attended = reinterpret_cast<Factor*>(take(sizeof(Factor) * rows * layer.o.in));
        active = reinterpret_cast<Factor*>(take(sizeof(Factor) * rows * layer.down.in));
        qkv = reinterpret_cast<float*>(take(4 * rows * layer.qkv.out));
        attention = reinterpret_cast<float*>(take(4 * omp_get_max_threads() * Attention::memory(layer, step)));
        size = next - static_cast<char*>(step.scratch);
    }
    int64_t size;
};

// This thread's memory for one panel of outputs of that many rows.
float* panel_buffer(int64_t rows) {
    static thread_local std::vector<float> buffer;
    if (static_cast<int64_t>(buffer.size()) < rows * PANEL) buffer.resize(rows * PANEL);
    return buffer.data();
}

// x += y of a product, panel by panel; called by all threads, ends in a barrier.
void add_product(const Linear& layer, const Factor* input, Factor* h, int64_t rows, float* x) {
    const Inputs inputs = inputs_of_layer(layer, input, rows, h);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < layer.out / PANEL; ++panel) {
        float* y = panel_buffer(rows);
        panel_product(layer, inputs, panel, y, PANEL);
        for (int64_t r = 0; r < rows; ++r) add_scaled(x + r * layer.out + panel * PANEL, y + r * PANEL, 1.0f, PANEL);
    }
}

void attention_block(const Layer& layer, const Step& step, const KVCaches& caches, const Scratch& at) {
    const int64_t rows = step.cells * step.slots;
    norm_rows(step.x, layer.norm_in, rows, layer.qkv.in, layer.eps, at.x);
    const Inputs inputs = inputs_of_layer(layer.qkv, at.x, rows, at.h);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < layer.qkv.out / PANEL; ++panel)
        panel_product(layer.qkv, inputs, panel, at.qkv + panel * PANEL, layer.qkv.out);
    float* memory = at.attention + omp_get_thread_num() * Attention::memory(layer, step);
    const int64_t together = Attention::slots_together(layer), parts = (step.slots + together - 1) / together;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < step.cells * layer.kv_heads * parts; ++task) {
        const int64_t first = task % parts * together, k = task / parts % layer.kv_heads, cell = task / parts / layer.kv_heads;
        Attention{layer, step, caches, cell, k, first, std::min(together, step.slots - first)}.run(at.qkv, memory, at.attended);
    }
    add_product(layer.o, at.attended, at.h, rows, step.x);
}

void feed_forward_block(const Layer& layer, const Step& step, const Scratch& at) {
    const int64_t rows = step.cells * step.slots, half = layer.gate_up.out / 2 / PANEL;
    norm_rows(step.x, layer.norm_post, rows, layer.gate_up.in, layer.eps, at.x);
    const Inputs inputs = inputs_of_layer(layer.gate_up, at.x, rows, at.h);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < half; ++panel) {
        float *gate = panel_buffer(2 * rows), *up = gate + rows * PANEL;
        panel_product(layer.gate_up, inputs, panel, gate, PANEL);
        panel_product(layer.gate_up, inputs, half + panel, up, PANEL);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < PANEL; i += LANES) {
                const Vec g = load(gate + r * PANEL + i), u = load(up + r * PANEL + i);
                store(at.active + r * layer.down.in + panel * PANEL + i, mul(mul(g, sigmoid(g)), u));
            }
    }
    add_product(layer.down, at.active, at.h, rows, step.x);
}

}  // namespace

extern "C" {

// Outputs of a panel where weights are laid out in panels, else 0.
int64_t panel_width() {
#ifdef BF16_FACTORS
    return 0;
#else
    return PANEL;
#endif
}

// Name and bytes of every size and field offset of the structures that Python fills: structs.py compares them.
struct NamedBytes {
    const char* name;
    int64_t bytes;
};
#define SIZE(type) {#type, sizeof(type)}
#define AT(type, field) {#type "." #field, offsetof(type, field)}
extern const NamedBytes struct_layout[] = {
    SIZE(Linear), AT(Linear, weight), AT(Linear, a), AT(Linear, b), AT(Linear, bias), AT(Linear, in), AT(Linear, out),
    AT(Linear, rank), AT(Linear, is_low),
    SIZE(Layer), AT(Layer, qkv), AT(Layer, o), AT(Layer, gate_up), AT(Layer, down), AT(Layer, norm_in),
    AT(Layer, norm_post), AT(Layer, norm_q), AT(Layer, norm_k), AT(Layer, heads), AT(Layer, kv_heads),
    AT(Layer, width), AT(Layer, rotary), AT(Layer, eps), AT(Layer, scaling), AT(Layer, window),
    SIZE(Step), AT(Step, x), AT(Step, cos), AT(Step, sin), AT(Step, prompt_length), AT(Step, start), AT(Step, cells),
    AT(Step, slots), AT(Step, longest), AT(Step, capacity), AT(Step, clock), AT(Step, scratch),
    SIZE(KVCaches), AT(KVCaches, prompt_k), AT(KVCaches, prompt_v), AT(KVCaches, own_k), AT(KVCaches, own_v),
};
#undef AT
#undef SIZE
extern const int64_t struct_layout_length = sizeof struct_layout / sizeof *struct_layout;

int64_t scratch_bytes(const Layer* layer, const Step* step) { return Scratch(*layer, *step).size; }

// The residual stream `step->x` through decoder layers of one shape, whose keys and values are written to the caches at `clock`.
void decode_layers(const Layer* layers, const KVCaches* caches, int64_t count, const Step* step) {
    const Scratch at(*layers, *step);
#pragma omp parallel
    {
        const Tiles tiles;
        for (int64_t i = 0; i < count; ++i) {
            attention_block(layers[i], *step, caches[i], at);
            feed_forward_block(layers[i], *step, at);
        }
    }
}
}
