"""Checks of a trainer's arguments, before anything is loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from groupwise.algo import Objective
from groupwise.config import GRPOConfig, Settings
from groupwise.config.compat.trainer_names import check_argument
from groupwise.config.make_settings import replaced
from groupwise.environments.pool import EnvironmentPool
from groupwise.errors import ConfigError, named, shortened
from groupwise.runs import manifest

_log = logging.getLogger(__name__)

_NAMES = (
    "model", "reward_funcs", "args", "train_dataset", "eval_dataset", "processing_class", "reward_processing_classes",
    "callbacks", "optimizers", "peft_config", "screen", "policy_loss", "environment",
    "quantization_config", "tools", "environment_factory",
)  # fmt: skip


EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


def check_arguments(
    model: Any, rewards: Any, args: Any, data: Any, unknown: Mapping[str, Any], environment: Any = None
) -> None:
    """Raise `ConfigError` for an argument that is missing, unknown, or a configuration of another library."""
    for name, value in unknown.items():
        check_argument(name, value, _NAMES)
    if args is not None and not isinstance(args, GRPOConfig):
        raise ConfigError(f"args is {named(args)}; expected groupwise.GRPOConfig{_way_to_config(args)}")
    for name, value in (("model", model), ("reward_funcs", rewards), ("train_dataset", data)):
        is_of_environment = name != "model" and environment is not None
        if (value is None and not is_of_environment) or (isinstance(value, str) and not value):
            raise ConfigError(f"GRPOTrainer needs {name}.")


def _way_to_config(args: Any) -> str:
    """How to make a `GRPOConfig` of what was given."""
    if isinstance(args, Mapping):
        return ": GRPOConfig(**args)."
    if isinstance(args, str | os.PathLike):
        return f": GRPOConfig({os.fspath(args)!r})."
    if isinstance(args, type):
        return ": call the class, with the settings as its arguments."
    return ". It takes the same arguments: change the import."


def one_environment(environment: Any, environment_factory: Any) -> Any:
    """What was given under either name: they mean the same.

    Raises:
        ConfigError: both were given.
    """
    if environment is not None and environment_factory is not None:
        raise ConfigError("environment and environment_factory mean the same. Keep one of them.")
    return environment_factory if environment is None else environment


def check_environment(environment: Any) -> None:
    """Raise `ConfigError` for an environment that nothing can be made of."""
    if environment is None or isinstance(environment, EnvironmentPool):
        return
    made_by = list(environment.values()) if isinstance(environment, Mapping) else [environment]
    if wrong := [each for each in made_by if not callable(each)]:
        hint = " Give its class." if hasattr(wrong[0], "reset") else ""
        raise ConfigError(
            f"environment is {named(wrong[0])}; expected a class, or a function without arguments that makes one "
            f"(groupwise.environments.Environment), or a dict of them.{hint}"
        )


def check_objects(callbacks: Any, optimizers: Any, screen: Any = None, policy_loss: Any = None) -> None:
    """Raise `ConfigError` for callbacks that hear of no event, and for optimizers, a screen or a loss that are none."""
    if policy_loss is not None and (isinstance(policy_loss, type) or not callable(policy_loss)):
        raise ConfigError(
            f"policy_loss is {shortened(repr(policy_loss))}; expected a function that is called like "
            "groupwise.algo.policy_loss and returns a tensor of one number."
        )
    if not isinstance(callbacks or (), list | tuple):
        raise ConfigError(f"callbacks is {shortened(repr(callbacks))}; expected a list of TrainerCallbacks.")
    for number, callback in enumerate(callbacks or ()):
        if not any(callable(getattr(callback, event, None)) for event in EVENTS):
            raise ConfigError(
                f"callbacks[{number}] is {shortened(repr(callback))}; expected a TrainerCallback, which has methods "
                "such as on_step_end."
            )
    if not isinstance(optimizers, list | tuple) or len(optimizers) != 2:
        raise ConfigError(
            f"optimizers is {shortened(repr(optimizers))}; expected a pair (optimizer, scheduler), either of which may "
            "be None."
        )
    wanted = (("an optimizer of torch", ("step", "param_groups")), ("a schedule of torch", ("step", "get_last_lr")))
    for number, (given, (what, members)) in enumerate(zip(optimizers, wanted, strict=True)):
        if given is not None and (isinstance(given, type) or not all(hasattr(given, name) for name in members)):
            raise ConfigError(f"optimizers[{number}] is {shortened(repr(given))}; expected {what}, or None.")
    if screen is not None and not (callable(getattr(screen, "note", None)) and hasattr(screen, "__enter__")):
        raise ConfigError(f"screen is {named(screen)}; expected a screen of groupwise.runs.screen, or None.")


def warn_of_lengths(objective: Objective) -> None:
    """Warn of a ratio of whole sequences under a mean over tokens, which is not what GSPO averages."""
    if objective.level == "seq_geo" and objective.aggregation in ("token_mean", "constant"):
        _log.warning(
            f"level seq_geo with aggregation {objective.aggregation} weights each sequence by its completion length. "
            "GSPO weights all alike: aggregation seq_mean_token_mean, which is TRL's loss_type grpo."
        )


def check_checkpoint(wanted: Any) -> None:
    """Refuse a `resume_from_checkpoint` that cannot be one, before anything of the run is touched.

    Raises:
        ConfigError: it is neither a switch nor a path.
        RunError: the path is not that of a checkpoint.
    """
    if wanted is not None and not isinstance(wanted, bool | str | os.PathLike):
        raise ConfigError(
            f"resume_from_checkpoint is {wanted!r}; expected True for the latest checkpoint, or the folder of one, "
            'such as "runs/NAME/checkpoint-2".'
        )
    if wanted and not isinstance(wanted, bool):
        manifest.require(Path(wanted))


def with_quantization(settings: Settings, model: Any, quantization: Any) -> Settings:
    """The settings, with a `quantization_config` among what the model is loaded with.

    Raises:
        ConfigError: the model is loaded already, or the value is no quantization of transformers.
    """
    if quantization is None:
        return settings
    if not isinstance(model, str | os.PathLike):
        raise ConfigError(
            "quantization_config is for a model that is loaded here by its name, and model is an object. Give it to "
            "from_pretrained, and leave it out here."
        )
    if not isinstance(quantization, Mapping) and not hasattr(quantization, "to_dict"):
        raise ConfigError(f"quantization_config is {named(quantization)}; expected a transformers.BitsAndBytesConfig.")
    written = settings.as_written.get("model_init_kwargs") or {}
    return replaced(settings, model_init_kwargs={**written, "quantization_config": quantization})
