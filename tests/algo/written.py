"""The objective written a second time, straight from the formulas, one scalar token at a time.

Slow on purpose and without any code of the package: `test_gradients.py` holds the fast path against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .batches import Batch

exp = torch.exp


def detach(value: Tensor) -> Tensor:
    return value.detach()


def clamp(value: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(value, min=low, max=high)


def least(a: Tensor, b: Tensor) -> Tensor:
    return a if a.item() <= b.item() else b


def clip_value(o: Any, r: Tensor, A: Tensor) -> Tensor:
    capped = r if o.delta is None else clamp(r, -torch.inf, o.delta)
    return -least(capped * A, clamp(r, 1 - o.epsilon_low, 1 + o.epsilon_high) * A)


def token_value(o: Any, x: Tensor, A: Tensor, logp: Tensor, anchor: Tensor, row: dict[str, Any]) -> Tensor:
    """The loss of one token before weights; `row` has the sequence's log-ratios, mismatch weights and demo flag."""
    r, pi, mu = exp(x), detach(exp(logp)), exp(anchor)
    positive = A.item() > 0
    away = (positive and pi.item() > mu.item()) or (A.item() < 0 and pi.item() < mu.item())

    def divergence() -> bool:
        limit = o.divergence_high if positive else o.divergence_low
        tv = (pi - mu).abs()
        kl = mu * torch.log(mu / pi) + (1 - mu) * torch.log((1 - mu) / (1 - pi))
        return away and bool((tv if o.divergence == "tv" else kl) > limit)

    def gamma() -> Tensor:
        k, lam = o.gamma_pos if A.item() >= 0 else o.gamma_neg
        log_w = clamp(sum(row["x"]) + sum(torch.log(w) for w in row["w"]), torch.log(torch.tensor(1e-8)).item(), 20.0)
        return -detach(exp(lam + k * log_w - lam * exp(log_w))) * A * logp

    def geo_clip() -> Tensor:
        def one(x_t: Tensor) -> Tensor:
            clipped = clamp(x_t, -o.epsilon_low, o.epsilon_high)
            return least(x_t, clipped) if positive else -least(-x_t, -clipped)

        return -exp(sum(one(x_t) for x_t in row["x"]) / len(row["x"])) * A

    def sapo() -> Tensor:
        tau = o.tau_pos if positive else o.tau_neg
        return -(4 / tau) * torch.sigmoid(tau * (r - 1)) * A

    zero = 0 * logp
    table: dict[str, Callable[[], Tensor]] = {
        "reinforce": lambda: -A * logp,
        "ratio": lambda: -r * A,
        "m2_mask": lambda: -r * A,
        "clip": lambda: clip_value(o, r, A),
        "weight_clip": lambda: -detach(clamp(r, o.weight_min, o.weight_max)) * A * logp,
        "sapo": sapo,
        "geo_clip": geo_clip,
        "gamma": gamma,
        "div_mask": lambda: (
            zero
            if divergence()
            else (-r * A if o.weight_cap is None else -detach(clamp(r, 0.0, o.weight_cap)) * A * logp)
        ),
        "abs_mask": lambda: -r * A if (pi - mu).abs().item() <= o.threshold else zero,
        "band_mask": lambda: -r * A if o.band_low <= x.item() <= o.band_high else zero,
        "topr": lambda: -A * logp if A.item() >= 0 else -detach(clamp(r, 0.0, 1.0)) * A * logp,
        "luffy": lambda: -exp(logp) / (exp(logp) + o.shaping) * A if row["is_demo"] else clip_value(o, r, A),
        "squared": lambda: (A - o.tau * sum(row["x"])) ** 2,
        "dro": lambda: -(A * logp - o.tau / 2 * x**2),
    }
    return table[o.trust_region]()


def level_ratio(o: Any, t: int, xs: list[Tensor]) -> Tensor:
    if o.level == "token":
        return xs[t]
    if o.level == "seq_prod":
        return sum(xs[1:], xs[0])
    mean = sum(xs[1:], xs[0]) / len(xs)
    return mean if o.level == "seq_geo" else detach(mean) + xs[t] - detach(xs[t])


def aggregation_weight(o: Any, batch: Batch, row: int) -> float:
    lengths = [int(n) for n in batch.mask_NT.sum(dim=1)]
    group = [int(g) for g in batch.group_N]
    same = sum(n for n, g in zip(lengths, group, strict=True) if g == group[row])
    return {
        "seq_mean_token_mean": 1 / (len(lengths) * lengths[row]),
        "token_mean": 1 / sum(lengths),
        "prompt_mean": 1 / (len(set(group)) * same),
        "constant": 1 / (len(lengths) * (o.max_length or 1)),
        "seq_mean_token_sum": 1 / len(lengths),
        "token_sum": 1.0,
    }[o.aggregation]


def mismatch_of(o: Any, log_rho: list[Tensor]) -> list[Tensor]:
    low = 0.0 if o.mismatch_min is None else o.mismatch_min
    high = torch.inf if o.mismatch_max is None else o.mismatch_max
    total, one = sum(log_rho[1:], log_rho[0]), torch.ones((), dtype=torch.float64)
    mean = total / len(log_rho)
    if o.mismatch == "none":
        return [one for _ in log_rho]
    if o.mismatch == "seq_mask_tis":
        inside = low <= exp(mean).item() <= high
        return [exp(value) if inside else 0 * one for value in log_rho]
    level, operation = o.mismatch.rsplit("_", 1)
    rhos = [exp({"token": value, "seq": total, "geo": mean}[level]) for value in log_rho]
    if operation == "truncate":
        return [clamp(rho, low, high) for rho in rhos]
    return [rho if low <= rho.item() <= high else 0 * one for rho in rhos]


def kl_value(o: Any, logp: Tensor, ref: Tensor, anchor: Tensor) -> Tensor:
    d = logp - ref
    k3 = exp(-d) + d - 1
    straight = d**2 / 2
    return {
        "none": 0 * d,
        "k2": straight,
        "k3": k3,
        "k3_corrected": exp(logp - anchor) * k3,
        "k3_plus": detach(k3) + straight - detach(straight),
    }[o.kl]


def written_loss(o: Any, logprob_NT: Tensor, batch: Batch, keep_NT: Tensor, is_demo_N: Tensor | None = None) -> Tensor:
    """L = sum W (k w Lpg + beta KL) + penalties, with the keep-mask given."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(logprob_NT)):
        length = int(batch.mask_NT[i].sum())
        logp = [logprob_NT[i, t] for t in range(length)]
        anchors = {"self": batch.logprob_NT, "old": batch.old_NT, "rollout": batch.rollout_NT}[o.anchor]
        anchor = [anchors[i, t] for t in range(length)]
        xs = [a - b for a, b in zip(logp, anchor, strict=True)]
        ws = mismatch_of(o, [batch.old_NT[i, t] - batch.rollout_NT[i, t] for t in range(length)])
        row = {"x": xs, "w": ws, "is_demo": is_demo_N is not None and bool(is_demo_N[i])}
        W, A = aggregation_weight(o, batch, i), batch.advantage_N[i]
        for t in range(length):
            w = 1.0 if o.trust_region == "gamma" else ws[t]
            value = w * token_value(o, level_ratio(o, t, xs), A, logp[t], anchor[t], row)
            policy = value if bool(keep_NT[i, t]) else 0.0
            penalty = o.log_ratio_penalty * xs[t] ** 2
            total = total + W * (policy + penalty + o.beta * kl_value(o, logp[t], batch.ref_NT[i, t], anchor[t]))
    return total
