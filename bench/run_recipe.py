"""Train a recipe in this process, as `groupwise train` does; with --shuffle-rewards as a negative control.

Usage: python bench/run_recipe.py recipes/length-smollm2-cpu.yaml --set max_steps=2 --set output_dir=runs/short
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import common

common.measure_this_checkout()


class ShuffledScorer:
    """Scores like the one it wraps, then deals the rewards out anew over all completions of the step.

    The mean reward stays what the completions earned; which completion gets the credit says nothing any more.
    """

    def __init__(self, scorer: Any, seed: int) -> None:
        from numpy.random import default_rng

        self._scorer = scorer
        self._random = default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score(self, groups: Sequence[Any], *, trainer_state: Any = None) -> Any:
        scored = self._scorer.score(groups, trainer_state=trainer_state)
        order = self._random.permutation(sum(len(group.reward) for group in scored.groups))
        dealt = _deal_out(scored.groups, [int(i) for i in order])
        return replace(scored, groups=_deal_out_steps(dealt, self._random.permutation))


def _deal_out(groups: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    """Completion i of the step gets the rewards of completion order[i]."""
    from groupwise.rounding import differ

    columns = {name: [r for group in groups for r in group.rewards[name]] for name in groups[0].rewards}
    total = [r for group in groups for r in group.reward]
    dealt, start = [], 0
    for group in groups:
        rows = order[start : start + len(group.reward)]
        start += len(rows)
        rewards = {name: tuple(values[i] for i in rows) for name, values in columns.items()}
        reward = tuple(total[i] for i in rows)
        dealt.append(replace(group, rewards=rewards, reward=reward, has_signal=differ(reward)))
    return tuple(dealt)


def _deal_out_steps(groups: Sequence[Any], permutation: Any) -> tuple[Any, ...]:
    """The rewards of steps over all steps of the batch; their ends stay. What has none comes back as it is."""
    from groupwise.rounding import differ

    dealt = list(groups)
    for name in groups[0].steps:
        steps = [step for group in groups for row in group.steps[name] for step in row or ()]
        rewards = iter([steps[int(i)][1] for i in permutation(len(steps))])
        for place, group in enumerate(dealt):
            rows = tuple(row and tuple((end, next(rewards)) for end, _ in row) for row in group.steps[name])
            has_signal = differ([reward for row in rows for _, reward in row or ()])
            dealt[place] = replace(group, steps={**group.steps, name: rows}, has_signal=has_signal)
    return tuple(dealt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--shuffle-rewards", action="store_true", help="give each completion another one's reward")
    arguments = parser.parse_args()

    from groupwise import GRPOTrainer
    from groupwise.config import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set)
    trainer = GRPOTrainer.from_recipe(recipe, folder=recipe.folder)
    if arguments.shuffle_rewards:
        scorer: Any = ShuffledScorer(trainer.scorer, trainer.args.seed)
        trainer.parts = replace(trainer.parts, scorer=scorer)
    trainer.train()


if __name__ == "__main__":
    main()
