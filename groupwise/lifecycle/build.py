"""The only place that puts a run together: for training, the pre-flight check, cost estimates and benchmarks.

`build` makes what a run consists of before its first step, from `RunInputs`; `make_learner` and `make_order` what a
step changes. Cheap checks come before expensive loading.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groupwise.chat import pad_id, stop_ids
from groupwise.checkpoint.best import check_metric
from groupwise.checkpoint.store import require_saveable as require_saveable_optimizer
from groupwise.config import Settings
from groupwise.data import Order
from groupwise.data.prepare import PreparedProblems, ShowTools
from groupwise.data.problems import Problems
from groupwise.environments.load import load_tools
from groupwise.environments.shown_tools import ShownTools
from groupwise.errors import ConfigError
from groupwise.lifecycle.endings import remark_on_endings
from groupwise.lifecycle.evaluate import Evaluator
from groupwise.lifecycle.fit_memory import fit_to_memory, require_memory_for
from groupwise.lifecycle.fits import check_head, prepare_problems
from groupwise.lifecycle.gold_logprob import GoldLogProb
from groupwise.lifecycle.inputs import RunInputs
from groupwise.lifecycle.make_curriculum import check_reward, make_curriculum
from groupwise.lifecycle.served_rollouts import make_served_engine, meet_servers
from groupwise.lifecycle.sharding import shard
from groupwise.policy.bounds import context_length
from groupwise.policy.bundle import PolicyBundle
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.load_model import (
    checkpoint_layers,
    hold_trained_weights_in_float32,
    load_model,
    load_tokenizer,
)
from groupwise.policy.policy_model import PolicyModel
from groupwise.policy.reference import Reference
from groupwise.policy.save import ModelWriter
from groupwise.policy.sharded_weights import lower
from groupwise.policy.trainable import trainable_model
from groupwise.ranks import this_world
from groupwise.rewards import RewardScorer
from groupwise.rewards.gold_answers import AnswerOf, answers_in
from groupwise.rewards.signal import SignalOf
from groupwise.rollout.engine import Engine
from groupwise.rollout.fastpath import build_policy_model
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.plain import PlainEngine
from groupwise.rollout.served.served_engine import ServedEngine
from groupwise.rollout.spread import SpreadEngine, own_engine
from groupwise.train.episodes import EpisodeSampler
from groupwise.train.evaluation_loss import EvaluationLoss, has_evaluation_loss
from groupwise.train.learner import Learner
from groupwise.train.optim import check_own_optimizer, make_optimizer, make_scheduler
from groupwise.train.overlong import with_overlong_penalty
from groupwise.train.sampler import GroupSampler, make_sampling
from groupwise.train.schedule import Schedule
from groupwise.world import World, gpu_id, has_fast_bfloat16, pick_device, pick_dtype

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """What a run consists of before its first step."""

    inputs: RunInputs
    policy: PolicyBundle
    engine: Engine
    scorer: RewardScorer
    """The reward functions of the recipe."""
    problems: PreparedProblems
    held_out: Mapping[str, PreparedProblems]
    """Every evaluation set by its name; "" is the one without a name."""

    @classmethod
    def of(cls, inputs: RunInputs, policy: PolicyBundle, engine: Engine, scorer: RewardScorer) -> RunParts:
        """Encode the prompts; everything else is there."""
        config = inputs.config
        show_tools = tools_in_prompts(inputs, policy)
        problems = prepare_problems(inputs.problems, policy.tokenizer, policy.model, config, show_tools)
        remark_on_endings(policy, problems, config)
        return cls(inputs, policy, engine, scorer, problems, prepare_sets(inputs.held_out, policy, inputs))

    @property
    def config(self) -> Settings:
        return self.inputs.config

    @cached_property
    def training_scorer(self) -> RewardScorer:
        """The scorer with the penalty of overlong completions where the recipe sets one; evaluation has none."""
        return with_overlong_penalty(self.scorer, self.config)

    @cached_property
    def answer_of(self) -> AnswerOf | None:
        """Finds the right answer of a problem that is trained on; None where the data has none."""
        return answers_in(self.problems.problems.column_names, self.scorer.functions)

    @cached_property
    def sampler(self) -> GroupSampler:
        """Samples as in training."""
        return self.sampler_of(self.problems)

    @cached_property
    def reference(self) -> Reference | None:
        """The policy as it is now, frozen, where the objective reads it or its KL is measured."""
        return make_reference(self.policy, self.config)

    def schedule(self) -> Schedule:
        """The steps of a run, counted from 0."""
        return Schedule(self.config, len(self.problems), self.reference)

    @cached_property
    def evaluators(self) -> list[Evaluator]:
        """One for each evaluation set of the run."""
        return self.evaluators_of(self.held_out)

    def evaluators_of(self, sets: Mapping[str, PreparedProblems], prefix: str = "eval") -> list[Evaluator]:
        """Evaluate each set under its name; "" is a set without one."""
        return [self._evaluator(found, f"{prefix}_{name}" if name else prefix) for name, found in sets.items()]

    def _evaluator(self, found: PreparedProblems, prefix: str) -> Evaluator:
        """Of an environment's problems no answer is a whole completion."""
        answer_of = answers_in(found.problems.column_names, self.scorer.functions)
        is_scored = answer_of and self.inputs.environment is None
        gold = GoldLogProb(self.policy, self.config, answer_of) if answer_of and is_scored else None
        return Evaluator(self.sampler_of(found), self.scorer, self.config, prefix, self._loss, answer_of, gold)

    @property
    def _loss(self) -> EvaluationLoss | None:
        if not has_evaluation_loss(self.config):
            return None
        return EvaluationLoss(self.config, self.policy.policy_model, self.reference, self.scorer.weights)

    def sampler_of(self, problems: PreparedProblems) -> GroupSampler:
        """Samples groups of these problems; with an environment every rank plays a share, with its own engine.

        Rank 0 plays all where servers sample.
        """
        config, tokenizer, stop_ids = self.config, self.policy.tokenizer, self.policy.stop_ids
        if self.inputs.environment is None:
            return GroupSampler.of(self.engine, problems, config, tokenizer, stop_ids)
        context = context_length(self.policy.model.config)
        given = (problems, config, tokenizer, stop_ids, self.inputs.environment, context)
        return EpisodeSampler.playing(own_engine(self.engine), *given, World() if config.servers else this_world())


def build(inputs: RunInputs, scorer: RewardScorer | None = None) -> RunParts:
    """Load model, tokenizer and reward models, and encode the prompts.

    A model without a trained parameter can be evaluated and uploaded; `require_trainable` refuses to train it.

    Raises:
        ModelError, ConfigError, DataError, RewardError: what stops training from starting.
    """
    scorer = scorer or make_scorer(inputs)
    model, name = _make_model(inputs)
    tokenizer = _make_tokenizer(inputs, model, name)
    if any(parameter.requires_grad for parameter in model.parameters()):
        hold_trained_weights_in_float32(model)
    world = this_world()
    if world.is_leader:  # the other ranks score nothing
        scorer.load()
        if inputs.environment is not None:
            load_tools(inputs.environment)
    policy = make_policy(model, name, tokenizer, inputs.config)
    shard(policy.policy_model, inputs.config, world)
    engine = make_engine(policy, inputs.config)
    is_spread = world.size > 1 and world.is_leader and not inputs.config.servers  # servers answer rank 0 alone
    parts = RunParts.of(inputs, policy, SpreadEngine(engine, world) if is_spread else engine, scorer)
    if isinstance(parts.engine, ServedEngine):
        gpus = world.gather(gpu_id(policy.policy_model.device), "the GPUs of the ranks")
        if world.is_leader:
            meet_servers(parts.engine, parts.problems, parts.config, gpus)
    return parts


def prepare_sets(sets: Mapping[str, Problems], policy: PolicyBundle, inputs: RunInputs) -> dict[str, PreparedProblems]:
    """The evaluation sets with their prompts encoded."""
    more = inputs.config, tools_in_prompts(inputs, policy)
    return {name: prepare_problems(given, policy.tokenizer, policy.model, *more) for name, given in sets.items()}


def tools_in_prompts(inputs: RunInputs, policy: PolicyBundle) -> ShowTools | None:
    """What shows the tools of each problem in its prompt; None where there are no environments."""
    if inputs.environment is None:
        return None
    config = inputs.config
    return ShownTools(inputs.environment, policy.tokenizer, config.chat_template_kwargs, config.system_prompt)


def make_scorer(inputs: RunInputs) -> RewardScorer:
    """The reward functions over the columns of the data; held-out problems must have them too.

    Raises:
        RewardError: a function takes a column that the data does not have.
    """
    pool = inputs.environment
    scorer = RewardScorer(
        inputs.rewards,
        inputs.problems.column_names,
        signal_of=_signal_of(inputs.config),
        environments=None if pool is None or inputs.plays_in_shares else lambda: pool.played,
    )
    inputs.check_held_out(scorer)
    return scorer


def _signal_of(config: Settings) -> SignalOf:
    if config.process_rewards:
        return "steps"
    return "any_function" if config.objective.combine == "normalise_each" else "sum"


def require_trainable(model: nn.Module, tokenizer: Any, *, is_sharded: bool = False) -> ModelWriter:
    """Hold what is trained in float32, unless shards do; the writer of its files, which has tried to save it.

    Raises:
        ModelError: nothing is trained, or it cannot be saved.
    """
    if not is_sharded:
        hold_trained_weights_in_float32(model)
    return ModelWriter(model, tokenizer)


def _make_model(inputs: RunInputs) -> tuple[nn.Module, str]:
    """The model that is trained, under its adapter, and its name."""
    config, model = inputs.config, inputs.model
    if isinstance(model, str):
        loaded = load_named_model(model, config, inputs.peft_config)
        name = model
    else:
        loaded = model
        name = str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)
    return trainable_model(loaded, inputs.peft_config, config.seed), name


def load_named_model(name: str, config: Settings, peft_config: Any) -> nn.Module:
    """The model of that name on the device of the configuration; without an adapter its own weights are trained.

    Raises:
        ConfigError: the device has too little memory for its training.
    """
    device = pick_device(use_cpu=config.use_cpu)
    require_memory_for(name, config, peft_config, device)
    return load_model(
        str(Path(name).resolve()) if Path(name).is_dir() else name,  # an adapter keeps the name of its base
        device=device,
        full=peft_config is None,
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        init_kwargs=config.model_init_kwargs,
    )


def _make_tokenizer(inputs: RunInputs, model: nn.Module, name: str) -> Any:
    """The tokenizer that was given, else the one that belongs to the model by its name."""
    config = inputs.config
    if (given := load_given_tokenizer(inputs)) is not None:
        return given
    if name == type(model).__name__:
        raise ConfigError(
            f"The {name} given as model carries no name by which its tokenizer could be found. Give the tokenizer "
            "as processing_class."
        )
    return load_tokenizer(name, trust_remote_code=config.trust_remote_code, init_kwargs=config.model_init_kwargs)


def load_given_tokenizer(inputs: RunInputs) -> Any:
    """The tokenizer that the inputs hold, loaded where it is a name; None for the model's own."""
    given = inputs.tokenizer
    if not isinstance(given, str):
        return given
    return load_tokenizer(given, trust_remote_code=inputs.config.trust_remote_code)


def make_policy(model: nn.Module, name: str, tokenizer: Any, config: Settings) -> PolicyBundle:
    """The model with its passes: the fast path where it agrees with the model's own.

    Raises:
        ModelError, ConfigError: a model that cannot be sampled, or not by the engine that was asked for.
    """
    check_head(model)
    pad_id(tokenizer)  # a missing pad token is aliased now, for reward models and for the saved tokenizer
    device = next(model.parameters()).device
    dtype = pick_dtype(config.dtype, device)
    if dtype == torch.bfloat16 and not has_fast_bfloat16(device):
        _log.warning("This machine multiplies bfloat16 many times slower than float32: dtype: auto would take float32.")
    policy_model = build_policy_model(
        model,
        dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        engine=config.engine,
        sampling=make_sampling(config, ()),
    )
    if config.gradient_checkpointing and policy_model.fused is None:
        checkpoint_layers(model)
    if config.engine == "native" and policy_model.fused is None:
        raise ConfigError(f"engine: native cannot run this model: {policy_model.why_plain}. Use engine: auto.")
    fit_to_memory(policy_model, config)
    stops = stop_ids(tokenizer, getattr(model, "generation_config", None), config.stop)
    gc.collect()  # loading leaves cycles of hundreds of MB behind
    return PolicyBundle(model, name, tokenizer, policy_model, stops)


def make_engine(policy: PolicyBundle, config: Settings) -> Engine:
    """The engine that samples from the policy."""
    if config.servers:
        return make_served_engine(policy, config)
    if policy.policy_model.fused is None:
        return PlainEngine(policy.model, policy.policy_model.dtype)
    concurrent = config.max_concurrent_completions or policy.policy_model.limits.concurrent
    return NativeEngine(policy.policy_model.fused, max_concurrent=concurrent)


def make_reference(policy: PolicyBundle, config: Settings) -> Reference | None:
    """The reference, where the objective reads one or its KL is to be measured."""
    if "ref" not in config.objective.needs and config.kl_metric_steps is None:
        return None
    dtype, has_fast_path = policy.policy_model.dtype, policy.policy_model.fused is not None

    def policy_model_of(model: nn.Module) -> PolicyModel:  # the policy has earned the fast path for its architecture
        fused = FusedModel(model, dtype) if has_fast_path else None
        if fused is not None and policy.policy_model.sharded is not None:
            lower(fused, spared={id(p) for p in policy.model.parameters()})
        return PolicyModel(model, dtype, fused)

    return Reference(policy.policy_model, policy_model_of)


def make_order(problems: PreparedProblems, config: Settings) -> Order:
    """The order in which a run draws its problems, from the beginning."""
    curriculum = make_curriculum(problems, config)
    shuffle = config.shuffle_dataset and "num_streamed" not in problems.problems.info  # a stream has its own order
    drop = config.drop_incomplete_step
    return Order(len(problems), config.prompts_per_step, config.seed, shuffle, curriculum, drop)


def make_learner(
    parts: RunParts, schedule: Schedule, optimizers: tuple[Any, Any] = (None, None)
) -> tuple[Learner, str]:
    """The learner, and the name of the optimizer that is really used."""
    config, policy = parts.config, parts.policy
    names = [function.name for function in parts.scorer.functions]
    check_reward(config, names)
    has_gold = any(evaluator.gold_logprob is not None for evaluator in parts.evaluators)
    prefixes = [evaluator.prefix for evaluator in parts.evaluators] or ["eval"]
    check_metric(config, names, prefixes, has_gold=has_gold)
    optimizer, scheduler = optimizers
    name = type(optimizer).__name__
    if optimizer is None:
        optimizer, name = make_optimizer(config, policy.policy_model)
    else:
        check_own_optimizer(optimizer, policy.model)
    scheduler = scheduler or make_scheduler(config, optimizer, schedule.num_updates)
    weights = parts.training_scorer.weights
    own_loss = parts.inputs.policy_loss
    learner = Learner(
        policy.policy_model, schedule.reference, optimizer, scheduler, config, weights, own_loss, this_world()
    )
    require_saveable_optimizer(learner)
    return learner, name
