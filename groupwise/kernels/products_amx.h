// Products of bfloat16 factors in the tiles of AMX, 16 x 16 sums at a time; see products.h.
//
// A tile of weights, [16 outputs, 32 inputs], is loaded from memory as it is; the inputs, of which there are fewer, are
// rearranged to [32 / 2, 16 rows, 2]. The sums are therefore transposed. Every sum is taken in the order of the inputs,
// whatever the number of rows beside it.

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "simd.h"

namespace {

constexpr int BLOCK = 16;  // rows, or outputs, of one tile

// Whether the system lets this process use tiles; checked once.
inline bool has_tiles() {
    constexpr int ASK_FOR_PERMISSION = 0x1023, TILE_DATA = 18;  // arch_prctl(2)
    static const bool granted = syscall(SYS_arch_prctl, ASK_FOR_PERMISSION, TILE_DATA) == 0;
    return granted;
}

// Inside, this thread's tiles have their full size: 16 rows of 64 bytes.
class Tiles {
public:
    Tiles() {
        if (!has_tiles()) return;
        alignas(64) struct { uint8_t palette = 1, start = 0, unused[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } shape;
        for (int tile = 0; tile < 8; ++tile) shape.bytes[tile] = 64, shape.rows[tile] = BLOCK;
        _tile_loadconfig(&shape);
    }
    ~Tiles() {
        if (has_tiles()) _tile_release();
    }
};

// Rows [rows, n] -> [blocks of 16 rows, n / 2, 16, 2], with rows of 0 where the last block is not whole.
inline const Factor* lay_out_rows(const Factor* x, int64_t rows, int64_t n, std::vector<Factor>& to) {
    const int64_t whole = rows / BLOCK * BLOCK, padded = (rows + BLOCK - 1) / BLOCK * BLOCK;
    if (static_cast<int64_t>(to.size()) < padded * n) to.resize(padded * n);
    for (int64_t r = 0; r < whole; r += BLOCK)
        for (int64_t i = 0; i < n; i += 2 * LANES) transpose_pairs(x + r * n + i, n, to.data() + r * n + i * BLOCK, 2 * BLOCK);
    if (whole == padded) return to.data();
    Factor last[BLOCK * 2 * LANES] = {0};
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        for (int64_t r = whole; r < rows; ++r) std::copy_n(x + r * n + i, 2 * LANES, last + (r - whole) * 2 * LANES);
        transpose_pairs(last, 2 * LANES, to.data() + whole * n + i * BLOCK, 2 * BLOCK);
    }
    return to.data();
}

// Tiles 0..3 += 32 inputs of 32 outputs, whose rows are `stride` numbers apart, times one or two blocks of rows.
template <int BLOCKS>
inline void add_tile(const Factor* weight, int64_t stride, const Factor* x, int64_t n) {
    _tile_loadd(4, weight, 2 * stride);
    _tile_loadd(5, weight + BLOCK * stride, 2 * stride);
    _tile_loadd(6, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (BLOCKS == 2) {
        _tile_loadd(7, x + BLOCK * n, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// The same for all inputs; `ahead`: the weights that come next, if any.
template <int BLOCKS>
inline void add_tiles(const Factor* weight, const Factor* x, int64_t n, const Factor* ahead) {
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        if (ahead)
            for (int line = 0; line < 2 * BLOCK; ++line)
                _mm_prefetch(reinterpret_cast<const char*>(ahead + i * 2 * BLOCK + line * 2 * LANES), _MM_HINT_T1);
        add_tile<BLOCKS>(weight + i, n, x + i * BLOCK, n);
    }
}

// The same for weights in codes: a block is expanded while tiles multiply the block before, whose numbers are in cache by
// then (tiles cannot load from pending stores).
template <int BLOCKS>
inline void add_coded_tiles(const CodedBlock* blocks, const Factor* x, int64_t n) {
    constexpr int AHEAD = 4;  // blocks to prefetch: the processor's own prefetching does not keep up
    alignas(64) Factor expanded[2][CODED * CODED];
    const __m512i shifts = shifts_of_codes();
    const int64_t count = n / CODED;
    expand_block(blocks[0], shifts, expanded[0], CODED);
    for (int64_t b = 0; b < count; ++b) {
        for (size_t byte = 0; byte < sizeof(CodedBlock); byte += 64)
            _mm_prefetch(reinterpret_cast<const char*>(blocks + b + AHEAD) + byte, _MM_HINT_T0);
        if (b + 1 < count) expand_block(blocks[b + 1], shifts, expanded[(b + 1) % 2], CODED);
        add_tile<BLOCKS>(expanded[b % 2], CODED, x + b * CODED * BLOCK, n);
    }
}

// The sums of 16 outputs, [16 outputs, 16 rows], -> y [count, 16] plus the bias.
inline void store_sums(const float* sums, const float* bias, int64_t count, float* y, int64_t y_stride) {
    alignas(64) float turned[BLOCK * BLOCK];
    transpose_pairs(reinterpret_cast<const Factor*>(sums), 2 * BLOCK, reinterpret_cast<Factor*>(turned), 2 * BLOCK);
    const Vec shift = bias ? load(bias) : zeros();
    for (int64_t r = 0; r < count; ++r) store(y + r * y_stride, add(load(turned + r * BLOCK), shift));
}

// y [rows, 32] of one panel for one or two blocks of rows, of inputs that are laid out.
template <int BLOCKS>
void tile_rows(const Linear& layer, const Factor* x, const Factor* h, int64_t rows, int64_t panel, bool is_first, float* y, int64_t y_stride) {
    const int64_t o = panel * 2 * BLOCK;
    const bool has_next = is_first && o + 2 * BLOCK < layer.out;
    const Factor* weight = static_cast<const Factor*>(layer.weight) + o * layer.in;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (layer.rank) add_tiles<BLOCKS>(layer.b + o * layer.rank, h, layer.rank, nullptr);
    if (layer.is_low)
        add_coded_tiles<BLOCKS>(blocks_of(layer, panel), x, layer.in);
    else
        add_tiles<BLOCKS>(weight, x, layer.in, has_next ? weight + 2 * BLOCK * layer.in : nullptr);
    alignas(64) float sums[4][BLOCK * BLOCK];
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    if constexpr (BLOCKS == 2) {
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
    }
    for (int part = 0; part < 2 * BLOCKS; ++part) {
        const int64_t first = part / 2 * BLOCK, half = part % 2 * BLOCK;
        store_sums(sums[part], layer.bias ? layer.bias + o + half : nullptr, std::min<int64_t>(BLOCK, rows - first), y + first * y_stride + half, y_stride);
    }
}

// y[r, 0..32) of one whole panel for any number of rows.
inline void tile_product(const Linear& layer, const Factor* x, const Factor* h, int64_t rows, int64_t panel, float* y, int64_t y_stride) {
    for (int64_t r = 0; r < rows; r += 2 * BLOCK) {
        const Factor *from = x + r * layer.in, *inner = h + r * layer.rank;
        if (rows - r > BLOCK)
            tile_rows<2>(layer, from, inner, rows - r, panel, r == 0, y + r * y_stride, y_stride);
        else
            tile_rows<1>(layer, from, inner, rows - r, panel, r == 0, y + r * y_stride, y_stride);
    }
}

}  // namespace
