"""The recipes of environments: held-out success before and after training, beside controls that must not learn.

Usage: python bench/agents.py                              (everything: an hour on two cores, three without AVX512-BF16)
       python bench/agents.py --recipes guess-smollm2-cpu --seeds 42 --no-controls

The main run of each recipe has two seeds. Controls have one seed and 15 steps: learning rate 0, rewards dealt out at
random over the completions of a step (over its turns where turns are rewarded), and for the calculator a tool that
answers "unavailable". The grid is trained by trajectory as well, with one seed: the sum of a walk's rewards for all of
its tokens.

Before and after play the same held-out problems with the same seeds, sampled (8 completions a problem, temperature 1)
and greedy. A problem's completions are averaged first, and errors are those of the mean over problems; the gain is
paired by problem. Success is a last turn worth 1: the right number, the secret, the goal. The guess game holds no
problem out: its secrets are drawn from seeds that no training run has.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import common
import runs

common.measure_this_checkout()

from base_vs_trained import load_policy  # noqa: E402  # these import the checkout, too
from task_recipes import EVALUATION_SEED, TIME_LIMIT_S, ByProblem, compare, signal  # noqa: E402

SEEDS = (42, 1)
CONTROL_STEPS = 15


@dataclass(frozen=True)
class Variant:
    """One way to train a recipe."""

    settings: tuple[str, ...] = ()
    shuffles: bool = False
    is_control: bool = True
    """Whether it is short, and must not learn."""
    has_all_seeds: bool = False


MAIN = Variant(is_control=False, has_all_seeds=True)
CONTROLS = {
    "learning rate 0": Variant(("learning_rate=0",)),
    "shuffled rewards": Variant(shuffles=True),
}
RECIPES: dict[str, dict[str, Variant]] = {
    "calculator-smollm2-cpu": {
        "main": MAIN,
        **CONTROLS,
        "tool unavailable": Variant(("environment.is_available=false",)),
    },
    "guess-smollm2-cpu": {"main": MAIN, **CONTROLS},
    "grid-smollm2-cpu": {
        "main": MAIN,
        "by trajectory": Variant(("process_rewards=false",), is_control=False),
        **CONTROLS,
    },
}


class Player:
    """Plays the held-out problems of a recipe with any policy."""

    def __init__(self, path: Path, changes: Sequence[str], num_problems: int, num_completions: int) -> None:
        from groupwise.config import load_recipe
        from groupwise.lifecycle.inputs import read_inputs
        from groupwise.policy.load_model import load_tokenizer

        self.recipe = load_recipe(path, list(changes))
        self.inputs = read_inputs(self.recipe, self.recipe.folder)
        self.tokenizer = load_tokenizer(self.recipe.tokenizer or self.recipe.model)
        self.problems = self.inputs.eval_problems or self.inputs.problems
        self.num_problems, self.num_completions = min(num_problems, len(self.problems)), num_completions

    def play(self, run: Path | None) -> dict[str, Sequence[Any]]:
        """Scored groups of the base, or of what a run has trained: sampled, and greedy with one completion each."""
        from groupwise.data.order import Draw
        from groupwise.lifecycle.build import make_engine
        from groupwise.lifecycle.fits import prepare_problems
        from groupwise.policy.bounds import context_length
        from groupwise.rewards import RewardScorer
        from groupwise.train.episodes import EpisodeSampler
        from groupwise.train.sampler import EVALUATION

        config, pool = self.inputs.config, self.inputs.environment
        assert pool is not None
        policy = load_policy(self.recipe.model, self.tokenizer, config, run)
        engine = make_engine(policy, config)
        engine.load_weights(policy.policy_model, version=0)
        problems = prepare_problems(self.problems, self.tokenizer, policy.model, config)
        sampler = EpisodeSampler.playing(
            engine, problems, config, self.tokenizer, policy.stop_ids, pool,
            context_length(policy.model.config),
        )  # fmt: skip
        scorer = RewardScorer(self.inputs.rewards, self.problems.column_names)
        draws = [Draw(row, row) for row in range(self.num_problems)]
        ways = {"sampled": (sampler, self.num_completions), "greedy": (sampler.greedy, 1)}
        return {
            kind: scorer.score(replace(way, seed=EVALUATION_SEED).sample(draws, count, EVALUATION)).groups
            for kind, (way, count) in ways.items()
        }


def by_problem(groups: Sequence[Any]) -> ByProblem:
    """Means over each problem's completions."""

    def mean(value: Any) -> list[float]:
        return [fmean(value(completion) for completion in group.completions) for group in groups]

    return {
        "success": mean(lambda c: bool(c.turns) and (c.turns[-1].reward or 0.0) >= 1),
        "reward": mean(lambda c: sum(turn.reward or 0.0 for turn in c.turns)),
        "turns": mean(lambda c: len(c.turns)),
        "calls": mean(lambda c: sum(len(turn.calls) for turn in c.turns)),
    }


def measure(name: str, arguments: argparse.Namespace, save: Any) -> None:
    """One recipe: the untrained model once, then every variant; `save` writes what there is after each."""
    path = common.ROOT / "recipes" / f"{name}.yaml"
    player = Player(path, arguments.set, arguments.problems, arguments.completions)
    base = player.play(None)
    found: dict[str, Any] = {
        "num_problems": player.num_problems,
        "groups_with_signal_before": signal(base["sampled"]),
        "variants": {},
    }
    save(name, found)
    for label, variant in RECIPES[name].items():
        if variant.is_control and not arguments.controls:
            continue
        for seed in arguments.seeds if variant.has_all_seeds else arguments.seeds[:1]:
            folder = common.SCRATCH / "agents" / f"{name}-{label.replace(' ', '-')}-{seed}"
            settings = [*arguments.set, *variant.settings, f"seed={seed}"]
            settings += [f"max_steps={min(CONTROL_STEPS, arguments.steps or CONTROL_STEPS)}"] * variant.is_control
            run = runs.train(path, folder, settings, shuffle_rewards=variant.shuffles)
            # The control of a broken tool is played with the tool as it is: what did training bring for real?
            trained = player.play(folder)
            compared = {kind: compare(by_problem(base[kind]), by_problem(trained[kind])) for kind in base}
            run["is_in_time"] = run["wall_seconds"] <= TIME_LIMIT_S
            found["variants"].setdefault(label, {})[str(seed)] = {**run, "held_out": compared}
            tell(f"{name}, {label}, seed {seed}", run, compared)
            save(name, found)


def tell(what: str, run: dict[str, Any], compared: dict[str, Any]) -> None:
    """One line a run."""
    parts = []
    for kind, measures in compared.items():
        before, after = (measures["success"][when] for when in ("before", "after"))
        parts.append(
            f"{kind} {before['mean']:.3f} +- {before['stderr']:.3f} -> {after['mean']:.3f} +- {after['stderr']:.3f}"
        )
    print(f"{what}: {run['num_steps']} steps, {run['wall_seconds']:.0f} s, success {', '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES], choices=[*RECIPES], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--problems", type=int, default=64, help="held-out problems at most (64)")
    parser.add_argument("--completions", type=int, default=8, help="sampled completions a problem (8)")
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe has, for every run")
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True, help="train the controls")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipes")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "agents.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: one step, four problems, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.set += ["prompts_per_step=2", "num_generations=4"]
        arguments.problems, arguments.completions, arguments.steps, arguments.seeds = 4, 2, 1, arguments.seeds[:1]
    if arguments.steps:
        arguments.set.append(f"max_steps={arguments.steps}")
    result: dict[str, Any] = {**common.header(), "is_quick": arguments.quick, "recipes": {}}

    def save(name: str, found: dict[str, Any]) -> None:
        result["recipes"][name] = found
        common.save(arguments.output, result)  # after each run, so that two hours are not lost to the last one

    for name in arguments.recipes:
        measure(name, arguments, save)


if __name__ == "__main__":
    main()
