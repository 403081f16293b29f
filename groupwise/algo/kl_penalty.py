"""The KL penalty: estimators from one sampled token, and the adaptive coefficient.

With d = logprob - ref_logprob of a token sampled from the policy. `docs/algorithm.md` lists which
estimator belongs where.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from groupwise.errors import ConfigError, did_you_mean

Estimator = Literal["k1", "k2", "k3", "k3_corrected", "k3_plus"]
ESTIMATORS: tuple[Estimator, ...] = ("k1", "k2", "k3", "k3_corrected", "k3_plus")


def kl(
    logprob: Tensor, ref_logprob: Tensor, estimator: Estimator = "k3", *, old_logprob: Tensor | None = None
) -> Tensor:
    """The KL of each token to the reference in nats, differentiable in `logprob` (Schulman 2020; 2512.21852).

    k1: d (no use as a loss: its expected gradient is 0). k2: d^2 / 2, gradient d. k3: e^-d + d - 1, gradient 1 - e^-d,
    as DeepSeekMath eq. (4). k3_corrected: r k3 with r = exp(logprob - old_logprob), gradient r d exactly, right on and
    off policy. k3_plus: the value of k3 with the gradient of k2.

    `old_logprob` (of the policy that sampled; None: the policy now) is read by k3_corrected alone. Any shape.
    """
    if estimator not in ESTIMATORS:
        hint = did_you_mean(str(estimator), ESTIMATORS)
        raise ConfigError(f'unknown KL estimator "{estimator}".{hint} Known: {", ".join(ESTIMATORS)}.')
    d = logprob - ref_logprob.detach()
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return torch.expm1(-d) + d
    if estimator == "k3_corrected":
        anchor = logprob if old_logprob is None else old_logprob
        return (logprob - anchor.detach()).exp() * (torch.expm1(-d) + d)
    straight = d.square() / 2
    return (torch.expm1(-d) + d).detach() + straight - straight.detach()


@dataclass(frozen=True, slots=True)
class AdaptiveKL:
    """A KL coefficient that steers toward a target (Ziegler et al., 1909.08593).

    c <- c (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon)
    """

    coefficient: float
    target: float
    horizon: float = 10_000.0

    def update(self, kl_value: float, num_completions: int) -> AdaptiveKL:
        """The controller after a step that measured `kl_value` over `num_completions` completions."""
        error = min(max(kl_value / self.target - 1, -0.2), 0.2)
        return replace(self, coefficient=self.coefficient * (1 + error * num_completions / self.horizon))
