"""The run that is checked, put together as far as its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from groupwise.chat import completion_decoder
from groupwise.config import Recipe
from groupwise.data.prepare import PreparedProblems
from groupwise.lifecycle import build as setup
from groupwise.lifecycle.inputs import Ingredients, load_named_model
from groupwise.policy.load_model import hold_trained_weights_in_float32, load_tokenizer
from groupwise.policy.save import require_saveable
from groupwise.policy.trainable import trainable_model
from groupwise.rewards import RewardScorer
from groupwise.rollout.engine import Engine
from groupwise.train.collect import make_sampling
from groupwise.train.overlong import with_overlong_penalty
from groupwise.types import Sampling

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """Model, engine, prompts and rewards as training would have them before step 1."""

    parts: Ingredients
    policy: setup.Policy
    problems: PreparedProblems
    engine: Engine
    scorer: RewardScorer
    """Of the recipe's functions."""
    training_scorer: RewardScorer
    """With the punishment of overlong completions, where the recipe asks for it."""

    @cached_property
    def sampling(self) -> Sampling:
        """As in training."""
        return make_sampling(self.parts.config, self.policy.stop_ids)

    @cached_property
    def decode(self) -> Callable[[Sequence[int]], str]:
        """Ids of a completion -> its text, as in training."""
        return completion_decoder(self.policy.tokenizer, self.sampling)

    @classmethod
    def of(
        cls, parts: Ingredients, policy: setup.Policy, scorer: RewardScorer, engine: Engine, notify: Notify
    ) -> Subject:
        """Encode the prompts; everything else is there."""
        problems = setup.training_problems(parts.problems, policy, parts.config, notify)
        return cls(parts, policy, problems, engine, scorer, with_overlong_penalty(scorer, parts.config))


def load_subject(recipe: Recipe, parts: Ingredients, notify: Notify) -> Subject:
    """Load the model with its tokenizer, and the reward models.

    Raises:
        ModelError, ConfigError, DataError, RewardError: what stops training from starting.
    """
    config = parts.config
    scorer = RewardScorer(parts.rewards, parts.problems.column_names)
    model: Any = load_named_model(recipe.model, config, full=parts.peft_config is None, notify=notify)
    model = trainable_model(model, parts.peft_config, config.seed)
    hold_trained_weights_in_float32(model, notify)
    tokenizer = load_tokenizer(
        recipe.tokenizer or recipe.model, trust_remote_code=config.trust_remote_code, notify=notify
    )
    require_saveable(model, tokenizer)
    scorer.load()
    policy = setup.Policy.of(model, recipe.model, tokenizer, config, notify)
    return Subject.of(parts, policy, scorer, policy.engine(config), notify)
