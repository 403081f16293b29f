"""Triton kernels of a GPU: norm, rotation, gated product, and attention of a decode step. `gpu_ops` calls them.

Importing this module needs triton, which torch's CUDA builds bring along.

Shapes: T tokens, I hidden width, F feed-forward width, H query heads, K key/value heads, Q = H / K, D head width; of a
decode step over static buffers (`rollout/native/static_grid.py`): C cells, S slots a cell, R = C * S rows, L prompt
capacity, W own capacity, N parts that the keys of a row are divided into.
"""

from __future__ import annotations

import triton
import triton.language as tl

PROMPT_PART, OWN_PART = 128, 64
"""Keys of a prompt, and of a row itself, that one program reads."""
CELL_TILE = 64
"""Queries of a cell that one program serves at most."""


@triton.jit
def add_rms_norm(
    x_ptr, delta_ptr, weight_ptr, sum_ptr, out_ptr, inverse_ptr, eps, width, delta_stride, out_stride,
    HAS_DELTA: tl.constexpr, KEEPS_INVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum = x + delta; out = sum w / sqrt(mean(sum^2) + eps), a row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        x += tl.load(delta_ptr + row * delta_stride + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(sum_ptr + row * width + column, x, mask=inside)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    y = x * inverse * weight
    tl.store(out_ptr + row * out_stride + column, y.to(out_ptr.dtype.element_ty), mask=inside)
    if KEEPS_INVERSE:
        tl.store(inverse_ptr + row, inverse)


@triton.jit
def rms_norm_backward(
    x_ptr, weight_ptr, inverse_ptr, dy_ptr, dsum_ptr, dx_ptr, ddelta_ptr, width, dy_stride,
    HAS_DSUM: tl.constexpr, HAS_DDELTA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = inverse (dy w - xhat mean(dy w xhat)) + dsum, with xhat = x inverse; ddelta is dx in the factors' dtype."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * dy_stride + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_ptr + row)
    xhat, slope = x * inverse, dy * weight
    dx = inverse * (slope - xhat * (tl.sum(slope * xhat, 0) / width))
    if HAS_DSUM:
        dx += tl.load(dsum_ptr + row * width + column, mask=inside, other=0.0)
    tl.store(dx_ptr + row * width + column, dx, mask=inside)
    if HAS_DDELTA:
        tl.store(ddelta_ptr + row * width + column, dx.to(ddelta_ptr.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul(y_ptr, out_ptr, width, out_stride, BLOCK: tl.constexpr):
    """out = silu(gate) up, with gate and up side by side in y."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(y_ptr + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(y_ptr + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * out_stride + column, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul_backward(y_ptr, dout_ptr, dy_ptr, width, dout_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(y_ptr + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(y_ptr + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    dout = tl.load(dout_ptr + row * dout_stride + column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    dgate = dout * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    dup = dout * gate * sigmoid
    tl.store(dy_ptr + row * 2 * width + column, dgate.to(dy_ptr.dtype.element_ty), mask=inside)
    tl.store(dy_ptr + row * 2 * width + width + column, dup.to(dy_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rotated(source_ptr, norm_ptr, cos_ptr, sin_ptr, eps, WIDTH, ROTARY, HAS_NORM: tl.constexpr, D: tl.constexpr):
    """A head of a token, normed where it has a norm, then rotated: element i with its partner ROTARY / 2 away."""
    i = tl.arange(0, D)
    half = ROTARY // 2
    turns = i < ROTARY
    partner = tl.where(turns, tl.where(i < half, i + half, i - half), i)
    x = tl.load(source_ptr + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    other = tl.load(source_ptr + partner, mask=turns, other=0.0).to(tl.float32)
    if HAS_NORM:
        inverse = 1.0 / tl.sqrt(tl.sum(x * x, 0) / WIDTH + eps)
        x = x * inverse * tl.load(norm_ptr + i, mask=i < WIDTH, other=0.0).to(tl.float32)
        other = other * inverse * tl.load(norm_ptr + partner, mask=turns, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + i, mask=turns, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + i, mask=turns, other=0.0).to(tl.float32)
    return x * cos + tl.where(i < half, -other, other) * sin


@triton.jit
def rotate_and_store(
    qkv_ptr, norm_q_ptr, norm_k_ptr, cos_ptr, sin_ptr, length_ptr, q_ptr, own_k_ptr, own_v_ptr,
    eps, qkv_stride, H, K, S, W, WIDTH, ROTARY, HAS_NORM: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """A head of a row: queries into q [R, H, D]; keys and values behind the row's own ones, [C, K, S, W, D]."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.arange(0, D)
    source_ptr = qkv_ptr + row * qkv_stride + head * WIDTH
    cos_ptr += row * ROTARY
    sin_ptr += row * ROTARY
    place = tl.minimum(tl.load(length_ptr + row), W - 1)
    if head < H:
        q = _rotated(source_ptr, norm_q_ptr, cos_ptr, sin_ptr, eps, WIDTH, ROTARY, HAS_NORM, D)
        tl.store(q_ptr + (row * H + head) * WIDTH + i, q.to(q_ptr.dtype.element_ty), mask=i < WIDTH)
    else:
        kv_head = (head - H) % K
        target = ((((row // S) * K + kv_head) * S + row % S) * W + place) * WIDTH + i
        if head < H + K:
            k = _rotated(source_ptr, norm_k_ptr, cos_ptr, sin_ptr, eps, WIDTH, ROTARY, HAS_NORM, D)
            tl.store(own_k_ptr + target, k.to(own_k_ptr.dtype.element_ty), mask=i < WIDTH)
        else:
            v = tl.load(source_ptr + i, mask=i < WIDTH, other=0.0)
            tl.store(own_v_ptr + target, v.to(own_v_ptr.dtype.element_ty), mask=i < WIDTH)


@triton.jit
def rotate_heads(
    x_ptr, cos_ptr, sin_ptr, y_ptr, x_token, x_head, y_token, y_head, SIGN, WIDTH, ROTARY, ROTATED, D: tl.constexpr
):
    """Every head of a token from x to y, the first ROTATED ones rotated: forward with SIGN 1, its gradient with -1."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.arange(0, D)
    half = ROTARY // 2
    turns = i < tl.where(head < ROTATED, ROTARY, 0)
    partner = tl.where(turns, tl.where(i < half, i + half, i - half), i)
    source_ptr = x_ptr + token * x_token + head * x_head
    x = tl.load(source_ptr + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    other = tl.load(source_ptr + partner, mask=turns, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + token * ROTARY + i, mask=turns, other=1.0).to(tl.float32)
    # The gradient of x_i gathers sin of both places; the two halves of cosines and sines are equal.
    sin = tl.load(sin_ptr + token * ROTARY + i, mask=turns, other=0.0).to(tl.float32) * SIGN
    y = x * cos + tl.where(i < half, -other, other) * sin
    tl.store(y_ptr + token * y_token + head * y_head + i, y.to(y_ptr.dtype.element_ty), mask=i < WIDTH)


@triton.jit
def _part(q, k, v, seen, scaling, softcap, HAS_SOFTCAP: tl.constexpr, IS_EXACT: tl.constexpr):
    """Largest score, sum of the weights and weighted values of some keys. q [M, D], k and v [B, D], seen [M, B]."""
    if IS_EXACT:
        scores = tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)), input_precision="ieee") * scaling
    else:
        scores = tl.dot(q, tl.trans(k)) * scaling
    if HAS_SOFTCAP:
        turned = scores / softcap
        scores = softcap * (1.0 - 2.0 / (tl.exp(2.0 * turned) + 1.0))
    scores = tl.where(seen, scores, float("-inf"))
    largest = tl.max(scores, 1)
    weight = tl.exp(scores - tl.where(largest == float("-inf"), 0.0, largest)[:, None])
    if IS_EXACT:
        summed = tl.dot(weight.to(v.dtype).to(tl.float32), v.to(tl.float32), input_precision="ieee")
    else:
        summed = tl.dot(weight.to(v.dtype), v)
    return largest, tl.sum(weight, 1), summed


@triton.jit
def attend_parts(
    q_ptr, prompt_k_ptr, prompt_v_ptr, own_k_ptr, own_v_ptr, prompt_length_ptr, length_ptr,
    largest_ptr, total_ptr, summed_ptr, scaling, softcap, window, K, S, L, W, WIDTH, prompt_parts, tiles, N,
    Q: tl.constexpr, D: tl.constexpr, CELL: tl.constexpr, ROW: tl.constexpr,
    PROMPT_PART: tl.constexpr, OWN_PART: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_EXACT: tl.constexpr,
):  # fmt: skip
    """A part of the keys of a cell's key head: of the prompt, for CELL queries of its rows, or a row's own.

    largest, total [R, H, N] and summed [R, H, N, D]; a part without keys has -inf and zeros.
    """
    cell_head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cell, head = cell_head // K, cell_head % K
    H = K * Q
    i = tl.arange(0, D)
    is_inside = i < WIDTH
    prompt_length = tl.load(prompt_length_ptr + cell)
    if part < prompt_parts * tiles:
        m = part % tiles * CELL + tl.arange(0, CELL)  # slot by slot, a slot's queries side by side
        row = cell * S + m // Q
        is_query = m < S * Q
        number = part // tiles
        key = number * PROMPT_PART + tl.arange(0, PROMPT_PART)
        at = row * H + head * Q + m % Q
        to = at * N + number
        if number * PROMPT_PART < prompt_length:
            q = tl.load(q_ptr + at[:, None] * WIDTH + i, mask=is_query[:, None] & is_inside, other=0.0)
            has_key = key < prompt_length
            source = (cell_head * L + key)[:, None] * WIDTH + i
            k = tl.load(prompt_k_ptr + source, mask=has_key[:, None] & is_inside, other=0.0)
            v = tl.load(prompt_v_ptr + source, mask=has_key[:, None] & is_inside, other=0.0)
            seen = is_query[:, None] & has_key
            if HAS_WINDOW:
                position = prompt_length + tl.load(length_ptr + row, mask=is_query, other=0)
                seen = seen & (key > position[:, None] - window)
            largest, total, summed = _part(q, k, v, seen, scaling, softcap, HAS_SOFTCAP, IS_EXACT)
            tl.store(largest_ptr + to, largest, mask=is_query)
            tl.store(total_ptr + to, total, mask=is_query)
            tl.store(summed_ptr + to[:, None] * WIDTH + i, summed, mask=is_query[:, None] & is_inside)
        else:
            tl.store(largest_ptr + to, tl.full([CELL], float("-inf"), tl.float32), mask=is_query)
            tl.store(total_ptr + to, tl.zeros([CELL], tl.float32), mask=is_query)
            tl.store(
                summed_ptr + to[:, None] * WIDTH + i, tl.zeros([CELL, D], tl.float32),
                mask=is_query[:, None] & is_inside,
            )  # fmt: skip
    else:
        own = part - prompt_parts * tiles
        slot, own_part = own % S, own // S
        own_row = cell * S + slot
        q_index = tl.arange(0, ROW)
        is_own_query = q_index < Q
        own_at = own_row * H + head * Q + q_index
        own_to = own_at * N + prompt_parts + own_part
        own_key = own_part * OWN_PART + tl.arange(0, OWN_PART)
        length = tl.load(length_ptr + own_row)
        if own_part * OWN_PART <= length:
            own_q = tl.load(q_ptr + own_at[:, None] * WIDTH + i, mask=is_own_query[:, None] & is_inside, other=0.0)
            has_own_key = (own_key <= length) & (own_key < W)
            own_source = ((cell_head * S + slot) * W + own_key)[:, None] * WIDTH + i
            own_k = tl.load(own_k_ptr + own_source, mask=has_own_key[:, None] & is_inside, other=0.0)
            own_v = tl.load(own_v_ptr + own_source, mask=has_own_key[:, None] & is_inside, other=0.0)
            own_seen = is_own_query[:, None] & has_own_key
            if HAS_WINDOW:
                own_seen = own_seen & (own_key > length - window)
            own_largest, own_total, own_summed = _part(
                own_q, own_k, own_v, own_seen, scaling, softcap, HAS_SOFTCAP, IS_EXACT
            )
            tl.store(largest_ptr + own_to, own_largest, mask=is_own_query)
            tl.store(total_ptr + own_to, own_total, mask=is_own_query)
            tl.store(summed_ptr + own_to[:, None] * WIDTH + i, own_summed, mask=is_own_query[:, None] & is_inside)
        else:
            tl.store(largest_ptr + own_to, tl.full([ROW], float("-inf"), tl.float32), mask=is_own_query)
            tl.store(total_ptr + own_to, tl.zeros([ROW], tl.float32), mask=is_own_query)
            tl.store(
                summed_ptr + own_to[:, None] * WIDTH + i, tl.zeros([ROW, D], tl.float32),
                mask=is_own_query[:, None] & is_inside,
            )  # fmt: skip


@triton.jit
def merge_parts(
    largest_ptr, total_ptr, summed_ptr, sinks_ptr, out_ptr, H, N, WIDTH, out_stride,
    HAS_SINKS: tl.constexpr, PARTS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The softmax over all parts of a row's keys: out [R, H D]."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i, part = tl.arange(0, D), tl.arange(0, PARTS)
    at = (row * H + head) * N + part
    largest = tl.load(largest_ptr + at, mask=part < N, other=float("-inf"))
    total = tl.load(total_ptr + at, mask=part < N, other=0.0)
    summed = tl.load(summed_ptr + at[:, None] * WIDTH + i, mask=(part < N)[:, None] & (i < WIDTH), other=0.0)
    top = tl.max(largest, 0)
    if HAS_SINKS:
        sink = tl.load(sinks_ptr + head).to(tl.float32)
        top = tl.maximum(top, sink)
    share = tl.exp(largest - top)
    denominator = tl.sum(share * total, 0)
    if HAS_SINKS:
        denominator += tl.exp(sink - top)
    y = tl.sum(share[:, None] * summed, 0) / denominator
    tl.store(out_ptr + row * out_stride + head * WIDTH + i, y.to(out_ptr.dtype.element_ty), mask=i < WIDTH)


@triton.jit
def softmax_rows(
    z_ptr, target_ptr, weight_ptr, logprob_ptr, entropy_ptr, total_ptr, per_temperature, V,
    HAS_WEIGHTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Log-prob of a row's target and entropy under softmax(z / temperature); the weights exp(z - max z), and their sum.

    A row a program, in one pass: every lane keeps the largest of its numbers and sums relative to it.
    """
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total, slope = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        z = tl.load(z_ptr + row * V + start + column, mask=start + column < V, other=float("-inf")) * per_temperature
        larger = tl.maximum(largest, z)
        reference = tl.where(larger == float("-inf"), 0.0, larger)
        shrink, weight = tl.exp(largest - reference), tl.exp(z - reference)
        total = total * shrink + weight
        slope = slope * shrink + weight * tl.where(z == float("-inf"), 0.0, z)
        largest = larger
    top = tl.max(largest, 0)
    shrink = tl.exp(largest - top)
    whole, moment = tl.sum(total * shrink, 0), tl.sum(slope * shrink, 0)
    log_whole = tl.log(whole)
    at_target = tl.load(z_ptr + row * V + tl.load(target_ptr + row)) * per_temperature
    tl.store(logprob_ptr + row, at_target - top - log_whole)
    tl.store(entropy_ptr + row, top + log_whole - moment / whole)
    tl.store(total_ptr + row, whole)
    if HAS_WEIGHTS:
        for start in range(0, V, BLOCK):
            inside = start + column < V
            z = tl.load(z_ptr + row * V + start + column, mask=inside, other=float("-inf")) * per_temperature
            weight = tl.exp(z - top)
            tl.store(weight_ptr + row * V + start + column, weight.to(weight_ptr.dtype.element_ty), mask=inside)


@triton.jit
def softmax_gradient(
    z_ptr, target_ptr, logprob_ptr, entropy_ptr, dlogprob_ptr, dentropy_ptr, dz_ptr, per_temperature, scale, V,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """dz = scale (dlogprob onehot(target) - p (dlogprob + dentropy (log p + entropy))), a block of a row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < V
    target = tl.load(target_ptr + row)
    lse = tl.load(z_ptr + row * V + target) * per_temperature - tl.load(logprob_ptr + row)
    log_p = tl.load(z_ptr + row * V + column, mask=inside, other=float("-inf")) * per_temperature - lse
    p, dlogprob = tl.exp(log_p), tl.load(dlogprob_ptr + row)
    of_entropy = tl.load(dentropy_ptr + row) * (tl.where(p > 0, log_p, 0.0) + tl.load(entropy_ptr + row))
    dz = tl.where(column == target, dlogprob, 0.0) - p * (dlogprob + of_entropy)
    tl.store(dz_ptr + row * V + column, (dz * scale).to(dz_ptr.dtype.element_ty), mask=inside)
