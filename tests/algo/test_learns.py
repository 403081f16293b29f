"""Every preset teaches a 16-token toy policy; with shuffled advantages, or no learning rate, none does.

The policy is one table of logits for each prompt and position. A completion is right when its first token lies in the
prompt's target set; the other tokens are noise, and a stop token makes lengths differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from groupwise.algo import Objective, objective_advantages, policy_loss, step_weights

from .batches import preset

NUM_PROMPTS, NUM_GENERATIONS, NUM_TOKENS, VOCABULARY, STOP = 16, 8, 5, 16, 15
QUICK = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp")


@dataclass
class Toy:
    """The policy's table, and what is drawn from it."""

    logits: Tensor
    generator: torch.Generator

    def sample(self) -> tuple[Tensor, Tensor]:
        """(tokens NT, mask NT) of one rollout, rows of a group side by side."""
        probabilities = self.logits.detach().softmax(-1).repeat_interleave(NUM_GENERATIONS, 0)
        tokens_NT = torch.multinomial(probabilities.flatten(0, 1), 1, generator=self.generator)
        tokens_NT = tokens_NT.reshape(-1, NUM_TOKENS)
        has_stopped = (tokens_NT == STOP).cumsum(1) - (tokens_NT == STOP).long()
        return tokens_NT, has_stopped == 0

    def score(self, tokens_NT: Tensor) -> tuple[Tensor, Tensor]:
        """(log-prob NT, entropy NT) of the sampled tokens."""
        logprob = self.logits.log_softmax(-1).repeat_interleave(NUM_GENERATIONS, 0)
        entropy_NT = -(logprob.exp() * logprob).sum(-1)
        return logprob.gather(2, tokens_NT.unsqueeze(2)).squeeze(2), entropy_NT


def rewards_of(tokens_NT: Tensor) -> Tensor:
    target = torch.arange(NUM_PROMPTS).repeat_interleave(NUM_GENERATIONS) % 4
    return (tokens_NT[:, 0] // 4 == target).double()


def train(
    objective: Objective, *, steps: int = 25, lr: float = 0.1, shuffle: bool = False, sign: float = 1.0
) -> tuple[float, float]:
    """(mean reward of the first three rollouts, of the last three)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(NUM_PROMPTS, NUM_TOKENS, VOCABULARY, dtype=torch.float64, requires_grad=True)
    toy, reference = Toy(logits, generator), Toy(logits.detach().clone(), generator)
    optimizer = torch.optim.Adam([logits], lr=lr)
    group_N = torch.arange(NUM_PROMPTS).repeat_interleave(NUM_GENERATIONS)
    updates = 1 if objective.anchor == "self" else 2
    history = []
    for _ in range(steps):
        tokens_NT, mask_NT = toy.sample()
        reward_N = rewards_of(tokens_NT)
        history.append(float(reward_N.mean()))
        with torch.no_grad():
            old_NT, ref_NT = toy.score(tokens_NT)[0], reference.score(tokens_NT)[0]
        scores = {"old_logprob_NT": old_NT, "rollout_logprob_NT": old_NT}
        greedy_N = rewards_of(toy.logits.argmax(-1).repeat_interleave(NUM_GENERATIONS, 0))
        advantage = objective_advantages(
            objective,
            reward_N,
            group_N,
            mask_NT=mask_NT,
            old_logprob_NT=old_NT,
            ref_logprob_NT=ref_NT,
            greedy_reward_N=greedy_N,
        )
        advantage = sign * advantage
        if shuffle:
            advantage = advantage[torch.randperm(len(advantage), generator=generator)]
        for _ in range(updates):
            logprob_NT, entropy_NT = toy.score(tokens_NT)
            now = {"logprob_NT": logprob_NT.detach(), "entropy_NT": entropy_NT.detach()}
            weights = step_weights(objective, mask_NT, group_N, advantage, generator=generator, **now, **scores)
            loss, _ = policy_loss(
                objective,
                logprob_NT,
                mask_NT,
                advantage,
                ref_logprob_NT=ref_NT,
                entropy_NT=entropy_NT,
                step_weights=weights,
                **scores,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return sum(history[:3]) / 3, sum(history[-3:]) / 3


def _marked(name: str) -> object:
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [_marked(name) for name in Objective.preset_names()])
def test_the_reward_rises_and_with_shuffled_advantages_it_does_not(name: str) -> None:
    objective = preset(name, pass_k=2)
    first, last = train(objective)
    assert first < 0.35
    assert last > first + 0.2
    _, shuffled = train(objective, shuffle=True)
    assert shuffled < first + 0.15


def test_without_learning_rate_nothing_rises() -> None:
    first, last = train(Objective.preset("grpo"), lr=0.0)
    assert abs(last - first) < 0.1


def test_the_advantage_with_the_wrong_sign_makes_it_worse() -> None:
    first, last = train(Objective.preset("grpo"), sign=-1.0)
    assert last < first - 0.15
