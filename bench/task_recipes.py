"""The recipes that learn verifiable tasks: held-out success before and after training, with standard errors.

Usage: python bench/task_recipes.py                       (three recipes, seeds 42 and 1: about an hour on two cores)
       python bench/task_recipes.py --recipes arithmetic-smollm2-cpu --seeds 42

Before and after answer the same held-out problems, sampled (8 answers a problem, temperature 1) and greedy. A problem's
answers are averaged first, and errors are those of the mean over problems; the gain is paired by problem. Success is
the share of answers with the full reward of the task. `constant_answer` is what a model would reach that gives the
commonest answer to every held-out problem: success has to pass it to be more than a guess.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import common
import runs

common.measure_this_checkout()

from base_vs_trained import load_policy  # noqa: E402  # it imports the checkout, too

RECIPES = ("arithmetic-smollm2-cpu", "chain-sum-smollm2-cpu", "summary-smollm2-cpu")
SEEDS = (42, 1)
TIME_LIMIT_S = 15 * 60
EVALUATION_SEED = 20_000
"""Of the sampled answers; no training run uses it as its own."""

ByProblem = dict[str, list[float]]
"""Measure -> one mean a problem."""


def answers(policy: Any, parts: Any, tokenizer: Any, count: int, most: int) -> Sequence[Any]:
    """Scored groups of `count` sampled answers to at most `most` held-out problems; one greedy answer for count 0."""
    from groupwise.data.order import Draw
    from groupwise.lifecycle.build import make_engine
    from groupwise.lifecycle.fits import prepare_problems
    from groupwise.rewards import RewardScorer
    from groupwise.train.sampler import EVALUATION, GroupSampler

    problems = prepare_problems(parts.eval_problems, tokenizer, policy.model, parts.config)
    engine = make_engine(policy, parts.config)
    engine.load_weights(policy.policy_model, version=0)
    sampler = GroupSampler.of(engine, problems, parts.config, tokenizer, policy.stop_ids)
    sampler = replace(sampler if count else sampler.greedy, seed=EVALUATION_SEED)
    draws = [Draw(row, row) for row in range(min(most, len(problems)))]
    groups = sampler.sample(draws, max(count, 1), EVALUATION)
    return RewardScorer(parts.rewards, parts.eval_problems.column_names).score(groups).groups


def by_problem(groups: Sequence[Any], task_reward: str | None) -> ByProblem:
    """Means over each problem's answers: the reward, every function's value, success at the task, characters."""
    measures: ByProblem = {"reward": [_mean(group.reward) for group in groups]}
    for name in groups[0].rewards:
        measures[f"rewards/{name}"] = [_mean(group.rewards[name]) for group in groups]
    if task_reward is not None:
        measures["success"] = [_mean([r is not None and r >= 1 for r in g.rewards[task_reward]]) for g in groups]
    measures["characters"] = [_mean([len(c.text) for c in group.completions]) for group in groups]
    return measures


def _mean(values: Sequence[Any]) -> float:
    scored = [float(value) for value in values if value is not None]
    return fmean(scored) if scored else 0.0


def with_error(values: Sequence[float]) -> dict[str, float]:
    """Mean over problems and its standard error."""
    return {"mean": fmean(values), "stderr": stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0}


def compare(before: ByProblem, after: ByProblem) -> dict[str, Any]:
    """Before, after, and the gain paired by problem."""
    return {
        name: {
            "before": with_error(before[name]),
            "after": with_error(after[name]),
            "gain": with_error([b - a for a, b in zip(before[name], after[name], strict=True)]),
        }
        for name in before
    }


def signal(groups: Sequence[Any]) -> float:
    """Share of groups whose rewards differ."""
    return fmean(group.has_signal for group in groups)


def constant_answer(problems: Any) -> float | None:
    """Share of the held-out problems that have the commonest answer; None without a column of answers."""
    gold = Counter(str(problem.columns.get("answer")) for problem in problems)
    return None if "None" in gold else gold.most_common(1)[0][1] / len(problems)


def measure(name: str, seeds: Sequence[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """One recipe: the untrained model once, then a run and its model for each seed."""
    from groupwise.config import load_recipe
    from groupwise.lifecycle.inputs import read_inputs
    from groupwise.policy.load_model import load_tokenizer

    path = common.ROOT / "recipes" / f"{name}.yaml"
    recipe = load_recipe(path, arguments.set)
    parts = read_inputs(recipe, recipe.folder)
    tokenizer = load_tokenizer(recipe.tokenizer or recipe.model)
    task_reward = recipe.task.reward if recipe.task else None

    def both(run: Path | None) -> dict[str, Any]:
        policy = load_policy(recipe.model, tokenizer, parts.config, run)
        return {
            kind: answers(policy, parts, tokenizer, count, arguments.problems)
            for kind, count in (("sampled", arguments.answers), ("greedy", 0))
        }

    base = both(None)
    found: dict[str, Any] = {
        "num_problems": len(base["greedy"]),
        "constant_answer": constant_answer(parts.eval_problems),
        "groups_with_signal_before": signal(base["sampled"]),
        "seeds": {},
    }
    for seed in seeds:
        folder = common.SCRATCH / "task_recipes" / f"{name}-{seed}"
        run = runs.train(path, folder, [*arguments.set, f"seed={seed}"])
        trained = both(folder)
        compared = {k: compare(by_problem(base[k], task_reward), by_problem(trained[k], task_reward)) for k in base}
        is_in_time = run["wall_seconds"] <= TIME_LIMIT_S
        found["seeds"][str(seed)] = {**run, "is_in_time": is_in_time, "held_out": compared}
        tell(name, seed, run, compared)
    return found


def tell(name: str, seed: int, run: dict[str, Any], compared: dict[str, Any]) -> None:
    """One line a seed."""
    key = "success" if "success" in compared["sampled"] else "reward"
    parts = []
    for kind, measures in compared.items():
        before, after = (measures[key][when] for when in ("before", "after"))
        parts.append(
            f"{kind} {before['mean']:.3f} +- {before['stderr']:.3f} -> {after['mean']:.3f} +- {after['stderr']:.3f}"
        )
    print(f"{name} seed {seed}: {run['wall_seconds']:.0f} s, {key} {', '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", default=RECIPES, metavar="NAME", help="files of recipes/, without .yaml"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--problems", type=int, default=100, help="held-out problems (100)")
    parser.add_argument("--answers", type=int, default=8, help="sampled answers a problem (8)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipes")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "task_recipes.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: one step, four problems, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.set += ["max_steps=1", "prompts_per_step=2"]
        arguments.problems, arguments.answers, arguments.seeds = 4, 2, arguments.seeds[:1]
    result: dict[str, Any] = {**common.header(), "is_quick": arguments.quick, "recipes": {}}
    for name in arguments.recipes:
        result["recipes"][name] = measure(name, arguments.seeds, arguments)
        common.save(arguments.output, result)  # after each, so that an hour is not lost to the last one


if __name__ == "__main__":
    main()
