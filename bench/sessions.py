"""What `session` saves: seconds of a step whose turns prefill only what is new, against whole histories every turn.

Usage: python bench/sessions.py                                        (about 8 minutes on two idle cores)
       python bench/sessions.py --recipe recipes/grid-smollm2-cpu.yaml --rounds 7

Both sides take turns in one process, with the untrained weights and the same seeds: one round to warm up, then the
timed ones. A ratio is that of one round; given are its median, smallest and largest. Sampled tokens are compared, too:
in bfloat16 other batch shapes round differently, so a few completions may part ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import common

common.measure_this_checkout()


class Forgetful:
    """An engine that is not told which completion a request goes on with."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, requests: Sequence[Any]) -> Any:
        return self._engine.generate([replace(request, session=None) for request in requests])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=common.ROOT / "recipes" / "guess-smollm2-cpu.yaml")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "sessions.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: two prompts, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.set += ["prompts_per_step=2", "num_generations=4"]
        arguments.rounds = 1
    result = {**common.header(), "is_quick": arguments.quick, "recipe": arguments.recipe.name}
    common.save(arguments.output, {**result, **measure(arguments)})


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from groupwise.check.cost import measure_cost
    from groupwise.check.sample import Sampled
    from groupwise.config import load_recipe
    from groupwise.lifecycle.build import build, make_order
    from groupwise.lifecycle.inputs import read_inputs
    from groupwise.train.collect import score_as_the_program

    recipe = load_recipe(arguments.recipe, arguments.set)
    run = build(read_inputs(recipe, recipe.folder))
    draws = make_order(run.problems, run.config).draw()
    run.engine.load_weights(run.policy.policy_model, version=0)
    ways = {"with": run.sampler, "without": replace(run.sampler, engine=Forgetful(run.engine))}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    groups: dict[str, Any] = {}
    for round_number in range(arguments.rounds + 1):
        for name, sampler in ways.items():
            run.engine.load_weights(run.policy.policy_model, version=round_number)  # forgets every session
            start = perf_counter()
            groups[name] = sampler.sample(draws, run.config.num_generations, step=1)
            if round_number:
                seconds[name].append(perf_counter() - start)
    scored = score_as_the_program(run.training_scorer, groups["with"], None)
    cost = measure_cost(run, Sampled(scored.groups, seconds["with"][-1], scored.seconds, 0.0))
    found = summary(seconds, cost.learn_s) | tokens(groups)
    for part in ("rollout", "step"):
        ratio = found[f"{part}_ratio"]
        print(f"{part}: without / with a session {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    return found


def summary(seconds: dict[str, list[float]], learn_s: float) -> dict[str, Any]:
    """Seconds of the rollout, and of a step with its learner pass; ratios round by round."""
    pairs = list(zip(seconds["without"], seconds["with"], strict=True))
    return {
        "rollout_s": {name: common.spread(values) for name, values in seconds.items()},
        "learn_s": learn_s,
        "rollout_ratio": common.spread([without / with_one for without, with_one in pairs]),
        "step_ratio": common.spread([(without + learn_s) / (with_one + learn_s) for without, with_one in pairs]),
    }


def tokens(groups: dict[str, Any]) -> dict[str, Any]:
    """How much was sampled and prefilled, and how many completions are the same on both sides."""
    pairs = [
        (mine, other)
        for one, two in zip(groups["with"], groups["without"], strict=True)
        for mine, other in zip(one.completions, two.completions, strict=True)
    ]
    completions = [mine for mine, _ in pairs]
    prompts = [len(group.prompt_ids) for group in groups["with"]]
    turns = [(len(g.prompt_ids), turn) for g in groups["with"] for c in g.completions for turn in c.turns[1:]]
    return {
        "num_completions": len(completions),
        "num_turns": sum(len(c.turns) for c in completions),
        "sampled_tokens": sum(c.num_sampled for c in completions),
        "prompt_tokens": sum(prompts),
        "history_tokens_of_later_turns": sum(prompt + turn.start for prompt, turn in turns),
        "equal_completions": sum(mine.token_ids == other.token_ids for mine, other in pairs),
    }


if __name__ == "__main__":
    main()
