"""Iterative GRPO's reward-model training while the policy moves (DeepSeekMath, Algorithm 1).

After every M steps (`ref_model_reset_steps`, when the reference becomes the policy) new comparisons are made from the
groups sampled since, and the reward model is trained on them together with a share of the comparisons it has already
seen, so that it does not forget. `examples/iterative_grpo.py` is the whole loop.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from groupwise.chat import as_completion
from groupwise.errors import ConfigError
from groupwise.rewards.model import RewardModel
from groupwise.rounding import differ
from groupwise.runs.reader import RunReader
from groupwise.runs.records import GroupRecord
from groupwise.types import Prompt

__all__ = ["Annotate", "Comparison", "ContinualRewardModel", "IterateRewardModel", "comparisons_of", "preference_loss"]

Annotate = Callable[[Prompt, list[str]], Sequence[float]]
"""(prompt, texts of its completions) -> how good each is: a person, a checker, a larger model."""


@dataclass(frozen=True)
class Comparison:
    """Two completions of one prompt, the better one first."""

    prompt: Prompt
    chosen: str
    rejected: str


def comparisons_of(groups: Iterable[GroupRecord], annotate: Annotate) -> list[Comparison]:
    """The best against the worst completion of each group; none where they are equally good."""
    found = []
    for group in groups:
        texts = [completion["text"] for completion in group["completions"]]
        values = list(annotate(group["prompt"], texts))
        assert len(values) == len(texts), f"{len(values)} annotations for {len(texts)} completions"
        best, worst = (texts[values.index(pick(values))] for pick in (max, min))
        if differ(values):
            found.append(Comparison(group["prompt"], best, worst))
    return found


def preference_loss(reward_model: RewardModel, comparisons: Sequence[Comparison]) -> Tensor:
    """-mean log sigmoid(score of the chosen - score of the rejected): Bradley-Terry."""
    prompts = [c.prompt for c in comparisons]
    chosen = [as_completion(c.prompt, c.chosen) for c in comparisons]
    rejected = [as_completion(c.prompt, c.rejected) for c in comparisons]
    scores_N = reward_model.logits([*prompts, *prompts], [*chosen, *rejected])
    return -nn.functional.logsigmoid(scores_N[: len(prompts)] - scores_N[len(prompts) :]).mean()


class ContinualRewardModel:
    """Trains a reward model on new comparisons, `replay_share` of what it sees being old ones."""

    def __init__(
        self,
        reward_model: RewardModel,
        *,
        learning_rate: float = 1e-5,
        replay_share: float = 0.1,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        if not 0 <= replay_share < 1:
            raise ConfigError(f"replay_share is {replay_share}; expected at least 0 and below 1.")
        self.reward_model, self.replay_share, self.batch_size = reward_model, replay_share, batch_size
        self.history: list[Comparison] = []
        self._random = random.Random(seed)
        trained = [p for p in reward_model.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)

    def mix(self, new: Sequence[Comparison]) -> list[Comparison]:
        """The new comparisons and as many old ones as make up their share, shuffled."""
        wanted = math.ceil(len(new) * self.replay_share / (1 - self.replay_share))
        mixed = [*new, *self._random.sample(self.history, min(wanted, len(self.history)))]
        self._random.shuffle(mixed)
        return mixed

    def train(self, new: Sequence[Comparison]) -> float | None:
        """One pass over `mix(new)`; returns the mean loss, or None when there is nothing new."""
        if not new:
            return None
        mixed, total = self.mix(new), 0.0
        for start in range(0, len(mixed), self.batch_size):
            part = mixed[start : start + self.batch_size]
            self._optimizer.zero_grad()
            loss = preference_loss(self.reward_model, part)
            loss.backward()
            self._optimizer.step()
            total += float(loss.detach()) * len(part)
        self.history += new
        return total / len(mixed)


class IterateRewardModel(TrainerCallback):  # type: ignore[misc]
    """Trains the reward model each time the reference is reset. Give it to the trainer among its callbacks.

    The comparisons come from the run folder. Checkpoints do not hold the reward model, so such a run cannot be resumed.
    """

    def __init__(self, continual: ContinualRewardModel, annotate: Annotate) -> None:
        self.continual, self.annotate = continual, annotate
        self.losses: list[float | None] = []
        """One an iteration; None where no group had a better and a worse completion."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        if args.ref_model_reset_steps is None:
            raise ConfigError("IterateRewardModel follows the reference: set ref_model_reset_steps.")
        if state.global_step:
            raise ConfigError("A run with IterateRewardModel cannot be resumed: checkpoints hold no reward model.")

    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        every = args.ref_model_reset_steps
        if state.global_step % every == 0:
            reader = RunReader(args.output_dir)
            steps = range(state.global_step - every + 1, state.global_step + 1)
            groups = [group for step in steps for group in reader.completions(step)]
            self.losses.append(self.continual.train(comparisons_of(groups, self.annotate)))
