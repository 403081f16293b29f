"""GRPO written a second time, one completion at a time, straight from DeepSeekMath (2402.03300) eq. (3)-(4).

Plain autograd through the model's own forward pass, and no code of the package: `test_learner.py` holds the learner
against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Example:
    """One group: a prompt, G completions and their rewards; log-probs of the old policy and the reference by token."""

    prompt: tuple[int, ...]
    completions: Sequence[tuple[int, ...]]
    rewards: Sequence[float]
    old: Sequence[Tensor] | None = None
    ref: Sequence[Tensor] | None = None


@dataclass
class Result:
    """What one optimizer step measures."""

    loss: Tensor
    kl: float
    clipped_low: float
    clipped_high: float


def logprobs(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float = 1.0) -> Tensor:
    """log pi(o_t | q, o_<t), one entry a completion token."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1)[torch.arange(len(completion)), list(completion)]


def advantages(rewards: Sequence[float]) -> Tensor:
    """A_i = (r_i - mean r) / (std r + 1e-4), with the sample standard deviation."""
    r = torch.tensor(rewards, dtype=torch.float64)
    return ((r - r.mean()) / (r.std() + 1e-4)).float()


def token_losses(
    new: Tensor, old: Tensor, ref: Tensor | None, advantage: Tensor, epsilon: float, beta: float
) -> Tensor:
    """-{ min(rho A, clip(rho, 1 - eps, 1 + eps) A) - beta (pi_ref / pi - log(pi_ref / pi) - 1) } of every token."""
    ratio = torch.exp(new - old)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
    if ref is not None:
        gain = gain - beta * (torch.exp(ref - new) - (ref - new) - 1)
    return -gain


def grpo(model: Any, groups: Sequence[Example], *, epsilon: float, beta: float, temperature: float = 1.0) -> Result:
    """Mean over groups of 1/G sum_i 1/|o_i| sum_t of the token losses."""
    group_losses, kls, low, high = [], [], [], []
    for group in groups:
        losses = []
        for i, advantage in enumerate(advantages(group.rewards)):
            new = logprobs(model, group.prompt, group.completions[i], temperature)
            old = new.detach() if group.old is None else group.old[i]
            ref = None if group.ref is None else group.ref[i]
            losses.append(token_losses(new, old, ref, advantage, epsilon, beta).mean())
            ratio = torch.exp(new - old).detach()
            low.append((ratio < 1 - epsilon) & (advantage < 0))
            high.append((ratio > 1 + epsilon) & (advantage > 0))
            if ref is not None:
                kls.append((torch.exp(ref - new) - (ref - new) - 1).detach())
        group_losses.append(torch.stack(losses).mean())
    kl = float(torch.cat(kls).mean()) if kls else 0.0
    shares = [float(torch.cat(c).float().mean()) for c in (low, high)]
    return Result(torch.stack(group_losses).mean(), kl, *shares)


def bnpo(model: Any, groups: Sequence[Example], *, epsilon: float, beta: float) -> Tensor:
    """The widely copied (loss * mask).sum() / mask.sum() over all rows."""
    losses = []
    for group in groups:
        for i, advantage in enumerate(advantages(group.rewards)):
            new = logprobs(model, group.prompt, group.completions[i])
            old = new.detach() if group.old is None else group.old[i]
            losses.append(token_losses(new, old, group.ref[i] if group.ref else None, advantage, epsilon, beta))
    return torch.cat(losses).mean()
