"""Rules that concern several fields at once."""

from __future__ import annotations

import json

from groupwise.config import guards
from groupwise.config.curriculum_rules import check_curriculum, without_effect
from groupwise.config.mistakes import Mistakes
from groupwise.config.server_rules import check_servers, servers_without_effect
from groupwise.config.settings import Settings
from groupwise.errors import ConfigError

_NEEDED_BY_SCHEDULE = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}


def check_together(config: Settings, problems: Mistakes) -> tuple[str, ...]:
    """Add a sentence for every contradiction between fields; returns warnings about choices that are often mistakes."""
    for check in (
        _minibatches,
        _reference,
        _schedule,
        _sampling,
        _process,
        _coefficients,
        _plain_values,
        _best,
        _sharding,
        check_curriculum,
        check_servers,
    ):
        check(config, problems)
    try:
        odd = config.objective.check_run(
            num_generations=config.num_generations, updates_per_rollout=config.updates_per_step
        )
    except ConfigError as error:
        problems.add(str(error))
        return ()
    return (*odd, *_without_effect(config))


def _minibatches(config: Settings, problems: Mistakes) -> None:
    prompts, parts = config.prompts_per_step, config.num_minibatches
    if prompts % parts:
        problems.add(
            f"prompts_per_step {prompts} cannot be cut into num_minibatches {parts} of equally many groups: "
            "make it a multiple."
        )


def _reference(config: Settings, problems: Mistakes) -> None:
    has_reference = "ref" in config.objective.needs
    if config.sync_ref_model and not has_reference:
        problems.add("sync_ref_model needs a reference, and beta is 0: set beta, or leave it out.")
    if config.as_written.get("ref_model_reset_steps") and not has_reference:
        problems.add("ref_model_reset_steps needs a reference, and beta is 0: set beta, or leave it out.")


def _schedule(config: Settings, problems: Mistakes) -> None:
    if config.warmup_steps and config.warmup_ratio:
        problems.add("warmup_steps and warmup_ratio are both set. Keep one of them.")
    needed = _NEEDED_BY_SCHEDULE.get(config.lr_scheduler_type, ())
    if needed and not any(name in config.lr_scheduler_kwargs for name in needed):
        example = f"lr_scheduler_kwargs={{{needed[0]!r}: ...}}"
        problems.add(f"lr_scheduler_type {config.lr_scheduler_type} needs {' or '.join(needed)}: set {example}.")


def _sampling(config: Settings, problems: Mistakes) -> None:
    if config.max_steps == 0:
        problems.add("max_steps is 0; expected at least 1, or -1 to follow num_train_epochs.")


def _process(config: Settings, problems: Mistakes) -> None:
    """Step rewards are normalised over the whole group; then every token has its own advantage."""
    objective = config.objective
    wanted = {"baseline": "group_mean", "scale": "group_std", "combine": "weighted_sum", "kl_in_reward": "none"}
    for axis, value in wanted.items():
        if config.process_rewards and getattr(objective, axis) != value:
            problems.add(f"process_rewards needs {axis} {value}, and it is {getattr(objective, axis)}.")
    if config.process_rewards and not objective.takes_token_advantages:
        problems.add(
            f"process_rewards gives each token its own advantage, which level {objective.level} with trust_region "
            f"{objective.trust_region} cannot use. Use level seq_geo_token or token."
        )
    if objective.baseline == "greedy" and objective.combine == "normalise_each":
        problems.add("baseline greedy has one reward a problem, and combine normalise_each scales each function's.")


def _coefficients(config: Settings, problems: Mistakes) -> None:
    objective = config.objective
    if config.kl_target is not None and "ref" not in objective.needs:
        problems.add("kl_target steers beta, and beta is 0: set beta to start from, or leave it out.")
    if not config.use_adaptive_entropy:
        return
    if config.entropy_coef_min > config.entropy_coef_max:
        problems.add(f"entropy_coef_min {config.entropy_coef_min} is above entropy_coef_max {config.entropy_coef_max}.")
    elif not config.entropy_coef_min <= objective.entropy_coef <= config.entropy_coef_max:
        problems.add(
            f"entropy_coef {objective.entropy_coef} lies outside entropy_coef_min {config.entropy_coef_min} to "
            f"entropy_coef_max {config.entropy_coef_max}."
        )


def _without_effect(config: Settings) -> tuple[str, ...]:
    """Keys that were written and act on nothing, and keys that cost more than it seems."""
    objective = config.objective
    changed = {name for name, field in Settings.model_fields.items() if getattr(config, name) != field.default}
    usual = guards.defaults()
    acting = {name for name, setting in config.guards.items() if setting != usual[name] and setting.action != "off"}
    is_constant = config.lr_scheduler_type == "constant"
    adaptive = sorted(changed & {"entropy_target", "entropy_coef_delta", "entropy_coef_min", "entropy_coef_max"})
    idle = [
        (
            bool(adaptive) and not config.use_adaptive_entropy,
            f"{', '.join(adaptive)} without effect: use_adaptive_entropy is false.",
        ),
        (
            "kl" in acting and "ref" not in objective.needs and config.kl_metric_steps is None,
            "guards.kl without effect: no KL is measured (beta is 0 and kl_metric_steps is not set).",
        ),
        (
            config.save_strategy == "no" and any(config.guards[name].action == "rollback" for name in acting),
            "a guard that rolls back finds no checkpoint: save_strategy is no.",
        ),
        (
            "kl_horizon" in changed and config.kl_target is None,
            "kl_horizon without effect: there is no kl_target.",
        ),
        (
            is_constant and bool(config.warmup_steps or config.warmup_ratio),
            f"{'warmup_steps' if config.warmup_steps else 'warmup_ratio'} without effect: lr_scheduler_type is "
            "constant; constant_with_warmup warms up.",
        ),
        (
            config.lr_scheduler_type in ("constant", "constant_with_warmup") and bool(config.lr_scheduler_kwargs),
            f"lr_scheduler_kwargs without effect: lr_scheduler_type {config.lr_scheduler_type} takes none.",
        ),
        (
            config.as_written.get("max_grad_norm", 0) is None,
            f"max_grad_norm null is the default, {config.max_grad_norm:g}: write 0 to leave gradients as they are.",
        ),
        (
            config.kl_metric_steps is not None and "ref" in objective.needs,
            f"kl_metric_steps without effect: with beta {objective.beta:g} the KL is measured every step.",
        ),
        (
            config.kl_metric_steps is not None and "ref" not in objective.needs,
            "kl_metric_steps costs a pass of the reference each time, and with full fine-tuning or an adapter that "
            "has already learnt a frozen copy of the model in memory; a fresh adapter needs none.",
        ),
        (
            objective.trust_region == "luffy",
            "trust_region luffy: nothing puts demonstrations into a group yet, and without any it is clip.",
        ),
    ]
    others = [without_effect(config), servers_without_effect(config)]
    return (*(sentence for holds, sentence in idle if holds), *(sentence for sentence in others if sentence))


def _best(config: Settings, problems: Mistakes) -> None:
    if config.load_best_model_at_end and config.eval_strategy == "no":
        problems.add("load_best_model_at_end needs evaluations to find the best by: set eval_steps.")


def _sharding(config: Settings, problems: Mistakes) -> None:
    """What cannot work on shards of the weights."""
    if config.shard == "none":
        return
    if config.engine == "transformers":
        problems.add(
            "shard: full needs the fast path, whose passes read the whole weights that the ranks sample with, and "
            "engine: transformers turns it off. Use engine: auto, or shard: none."
        )
    if config.optim in ("adafactor", "adamw_8bit"):
        problems.add(
            f"optim {config.optim} looks at whole matrices or blocks of them, and shard: full leaves each rank a part. "
            "Use adamw, adamw_fused or sgd."
        )
    if config.sync_ref_model:
        problems.add(
            "sync_ref_model mixes whole float32 weights, which no rank holds under shard: full. Leave it out, or use "
            "shard: none."
        )
    if "quantization_config" in config.model_init_kwargs:
        problems.add(
            "shard: full cannot cut quantized weights, which are frozen: their adapter is small and every rank holds "
            "it. Use shard: none."
        )


def _plain_values(config: Settings, problems: Mistakes) -> None:
    """The record of a run holds every value, so each has to be text, a number, a list or a mapping."""
    for name in ("model_init_kwargs", "chat_template_kwargs", "lr_scheduler_kwargs"):
        try:
            json.dumps(getattr(config, name))
        except TypeError as error:
            problems.add(
                f"{name} holds what the record of the run cannot hold ({error}); pass the loaded object instead."
            )
