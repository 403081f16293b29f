"""Puts a run together from a model, data, rewards and a configuration. Cheap checks come before expensive loading."""

from __future__ import annotations

import gc
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groupwise import __version__
from groupwise.chat import beyond_embedding, pad_id, stop_ids
from groupwise.checkpoint.best import check_metric
from groupwise.checkpoint.store import require_saveable
from groupwise.config import GRPOConfig
from groupwise.data import Order, prepare
from groupwise.data.prepare import PreparedProblems
from groupwise.data.problems import Problems
from groupwise.errors import ConfigError, DataError, ModelError
from groupwise.lifecycle.endings import remark_on_endings
from groupwise.lifecycle.follow_curriculum import check_reward, make_curriculum
from groupwise.policy.bounds import context_length, num_embeddings, num_logits, rotation_bound
from groupwise.policy.compute import ComputeModel
from groupwise.policy.load_model import checkpoint_layers, count_parameters
from groupwise.policy.network import Network
from groupwise.policy.reference import Reference
from groupwise.rewards import RewardScorer
from groupwise.rewards.sandbox.backend_choice import sandbox_programs, sandboxes_in_use
from groupwise.rollout.engine import Engine
from groupwise.rollout.fastpath import build_network
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.plain import PlainEngine
from groupwise.train.collect import make_sampling
from groupwise.train.learner import Learner
from groupwise.train.optim import check_own_optimizer, make_optimizer, make_scheduler
from groupwise.train.overlong import with_overlong_penalty
from groupwise.train.schedule import Schedule
from groupwise.world import has_fast_bfloat16, pick_dtype

Notify = Callable[[str], None]


@dataclass
class Policy:
    """The model being trained and how it is run."""

    model: nn.Module
    name: str
    tokenizer: Any
    network: Network
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, name: str, tokenizer: Any, config: GRPOConfig, notify: Notify) -> Policy:
        _check_head(model)
        pad_id(tokenizer)  # a missing pad token is aliased now, for reward models and for the saved tokenizer
        device = next(model.parameters()).device
        dtype = pick_dtype(config.dtype, device)
        if dtype == torch.bfloat16 and not has_fast_bfloat16(device):
            notify("This machine multiplies bfloat16 many times slower than float32: dtype: auto would take float32.")
        network = build_network(
            model,
            dtype,
            gradient_checkpointing=config.gradient_checkpointing,
            engine=config.engine,
            sampling=make_sampling(config, ()),
            notify=notify,
        )
        if config.gradient_checkpointing and network.compute is None:
            checkpoint_layers(model)
        if config.engine == "native" and network.compute is None:
            raise ConfigError(f"engine: native cannot run this model: {network.why_plain}. Use engine: auto.")
        stops = stop_ids(tokenizer, getattr(model, "generation_config", None), config.stop)
        gc.collect()  # loading leaves cycles of hundreds of MB behind
        return cls(model, name, tokenizer, network, stops)

    def engine(self, config: GRPOConfig) -> Engine:
        """The engine that samples from this policy."""
        if self.network.compute is None:
            return PlainEngine(self.model, self.network.dtype)
        return NativeEngine(self.network.compute, max_concurrent=config.max_concurrent_completions)


def _check_head(model: nn.Module) -> None:
    """Raise `ModelError` where the model can sample an id that it cannot read."""
    read, sampled = num_embeddings(model), num_logits(model)
    if sampled > read:
        raise ModelError(
            f"The model's head has {sampled} rows and its embedding {read}, so it can sample tokens that it cannot "
            f"read. Give both one size: model.resize_token_embeddings({sampled})."
        )


def prepare_problems(
    problems: Problems, policy_tokenizer: Any, model: nn.Module, config: GRPOConfig, notify: Notify
) -> PreparedProblems:
    """Encoded prompts that fit the model's context together with their completions."""
    prepared = prepare(
        problems,
        policy_tokenizer,
        max_prompt_length=config.max_prompt_length,
        overlong=config.overlong_prompts,
        system_prompt=config.system_prompt,
        chat_template_kwargs=config.chat_template_kwargs,
        notify=notify,
    )
    check_ids(prepared, policy_tokenizer, model)
    context = context_length(model.config)
    if context is not None and config.max_completion_length >= context:
        raise ConfigError(
            f"max_completion_length {config.max_completion_length} leaves no room for a prompt: the model's context is "
            f"{context} tokens. Set max_completion_length lower."
        )
    needed = prepared.max_prompt_tokens + config.max_completion_length
    if context is not None and needed > context:
        raise ConfigError(
            f"The longest prompt ({prepared.max_prompt_tokens} tokens) and max_completion_length "
            f"{config.max_completion_length} need {needed} tokens, but the model's context is {context}. "
            f"Set max_prompt_length to {context - config.max_completion_length} or less."
        )
    _check_rotation(prepared, model, config)
    return prepared


def _check_rotation(prepared: PreparedProblems, model: nn.Module, config: GRPOConfig) -> None:
    """Refuse completions that grow past the length at which the model's rotation becomes another one."""
    kind, bound = rotation_bound(model.config) or ("", None)
    longest = prepared.max_prompt_tokens + config.max_completion_length
    if bound is None or longest <= bound or prepared.min_prompt_tokens > bound:
        return
    raise ConfigError(
        f"The model's rotation ({kind}) changes beyond {bound} tokens, so a completion that crosses them is sampled "
        f"under one rotation and scored under another. The longest prompt ({prepared.max_prompt_tokens} tokens) and "
        f"max_completion_length {config.max_completion_length} need {longest} tokens. Let max_prompt_length and "
        f"max_completion_length add up to {bound} or less, or train on prompts that are all longer than that."
    )


def training_problems(problems: Problems, policy: Policy, config: GRPOConfig, notify: Notify) -> PreparedProblems:
    """The prepared problems that the policy is trained on; with a remark on what keeps completions from ending."""
    prepared = prepare_problems(problems, policy.tokenizer, policy.model, config, notify)
    remark_on_endings(policy, prepared, config, notify)
    return prepared


def check_ids(prepared: PreparedProblems, tokenizer: Any, model: nn.Module) -> None:
    """Raise `DataError` for a prompt with a token that the model's embedding has no row for."""
    size = num_embeddings(model)
    if (found := prepared.find_id(size)) is not None:
        row, token_id = found
        name = prepared.problems.name
        raise DataError(f"Row {row} of {name}: {beyond_embedding(tokenizer, token_id, size)}")


def make_reference(policy: Policy, config: GRPOConfig) -> Reference | None:
    """The reference, where the objective reads one or its KL is to be measured."""
    if "ref" not in config.resolved_objective.needs and config.kl_metric_steps is None:
        return None
    dtype, has_fast_path = policy.network.dtype, policy.network.compute is not None

    def build(model: nn.Module) -> Network:  # the policy has earned the fast path for its architecture
        return Network(model, dtype, ComputeModel(model, dtype) if has_fast_path else None)

    return Reference(policy.network, build)


def make_learner(
    policy: Policy,
    reference: Reference | None,
    schedule: Schedule,
    scorer: RewardScorer,
    config: GRPOConfig,
    optimizers: tuple[Any, Any],
    notify: Notify,
) -> tuple[Learner, str]:
    """The learner, and the name of the optimizer that is really used."""
    check_reward(config, [f.name for f in scorer.functions])
    check_metric(config, [f.name for f in scorer.functions])
    optimizer, scheduler = optimizers
    name = type(optimizer).__name__
    if optimizer is None:
        optimizer, name = make_optimizer(config, policy.model, notify)
    else:
        check_own_optimizer(optimizer, policy.model, notify)
    scheduler = scheduler or make_scheduler(config, optimizer, schedule.num_updates)
    weights = [f.weight for f in with_overlong_penalty(scorer, config).functions]
    learner = Learner(policy.network, reference, optimizer, scheduler, config, weights)
    require_saveable(learner)
    return learner, name


def summary(policy: Policy, engine: Engine, schedule: Schedule, config: GRPOConfig, run_name: str) -> dict[str, Any]:
    """What the screen says at the start."""
    device = next(policy.model.parameters()).device
    return {
        "run_name": run_name,
        "model": policy.name,
        "parameters": str(count_parameters(policy.model)),
        "objective": config.objective,
        "steps": schedule.num_steps,
        "batch": config.describe()[0],
        "device": f"{device.type}, {str(policy.network.dtype).removeprefix('torch.')}",
        "engine": engine.capabilities.name,
    }


def record_of_start(
    recipe: dict[str, Any],
    recipe_folder: Path | None,
    policy: Policy,
    problems: PreparedProblems,
    engine: Engine,
    config: GRPOConfig,
    optimizer: str,
) -> dict[str, Any]:
    """config.json: the resolved recipe, where its own files lie, and everything that was decided from it."""
    parameters = count_parameters(policy.model)
    return {
        "recipe": recipe,
        "recipe_folder": None if recipe_folder is None else str(recipe_folder),
        "description": config.describe(),
        "model": {
            "name": policy.name,
            "num_parameters": parameters.total,
            "num_trainable_parameters": parameters.trainable,
            "compute_dtype": str(policy.network.dtype).removeprefix("torch."),
            "slow_path_because": policy.network.why_plain,
            "no_kernels_because": None if policy.network.compute is None else policy.network.compute.why_no_kernels,
        },
        "data": {
            **problems.problems.info,
            "num_problems": len(problems),
            "num_truncated": problems.num_truncated,
            "num_dropped": problems.num_dropped,
        },
        "used": {"optimizer": optimizer, "engine": engine.capabilities.name, "stop_ids": list(policy.stop_ids)},
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(next(policy.model.parameters()).device),
        "sandbox": sandboxes_in_use(),
        "sandbox_programs": sandbox_programs(),
    }


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "groupwise": __version__}
    for package in ("torch", "transformers", "peft", "datasets", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the folder the run was started in, or None outside a repository."""

    def run(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return {"commit": run("rev-parse", "HEAD"), "is_dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware(device: torch.device) -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def machine(model: nn.Module) -> dict[str, Any]:
    """What the last bits of a run depend on."""
    return {**versions(), **hardware(next(model.parameters()).device)}


def recipe_of(
    config: GRPOConfig, model: str, problems: Problems, scorer: RewardScorer, peft_config: Any
) -> dict[str, Any]:
    """The recipe of a run that was written in Python: names where a file would have them."""
    lora = None if peft_config is None else {k: _plain(v) for k, v in peft_config.to_dict().items() if v is not None}
    return {
        "model": model,
        "data": problems.name,
        "rewards": [{"function": f.name, "weight": f.weight, **f.shaping.settings} for f in scorer.functions],
        "lora": lora,
        **config.resolved(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | Sequence) and not isinstance(value, str):
        return sorted(map(str, value))
    return value if isinstance(value, str | int | float | bool) else str(value)


def make_order(problems: PreparedProblems, config: GRPOConfig) -> Order:
    curriculum = make_curriculum(problems, config)
    return Order(len(problems), config.prompts_per_step, config.seed, config.shuffle_dataset, curriculum)
