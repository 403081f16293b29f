"""Runs the checks, cheap ones first; a failure ends them where later ones would have no meaning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

from groupwise.check import completions, cost, data, exploits, learning_rate, machine, noise, prompts, rewards, turns
from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding
from groupwise.check.probes import probe
from groupwise.check.result import Result
from groupwise.check.sample import num_groups, sample
from groupwise.config import Recipe
from groupwise.errors import EnvironmentFailedError, RewardError
from groupwise.lifecycle.build import RunParts, build, require_trainable
from groupwise.lifecycle.inputs import RunInputs
from groupwise.lifecycle.memory_plan import Machine, plan_memory
from groupwise.policy.load_model import count_parameters
from groupwise.redact import redact
from groupwise.rewards.sandbox.backend_choice import RunSandboxes
from groupwise.torch_settings import settings_of_training
from groupwise.train.collect import score_as_the_program

_log = logging.getLogger(__name__)

FATAL = frozenset({"wrong_column", "too_few_problems"})
"""Failures of the data after which nothing can be sampled or scored."""

Load = Callable[[RunInputs], RunParts]


@settings_of_training()
def check(
    recipe: Recipe,
    inputs: RunInputs,
    *,
    groups: int | None = None,
    num_ranks: int = 1,
    load: Load = build,
) -> Result:
    """Look at a recipe as far as one can without changing a weight.

    Args:
        inputs: data, rewards and adapter of the recipe (`lifecycle/inputs.py`).
        groups: how many groups to sample; by default as many as a step has, 4 at least and 8 at most.
        num_ranks: of the run whose memory is planned; the check itself is one process.
        load: loads the model and puts the run together.

    Raises:
        ConfigError, DataError, ModelError, RewardError: what cannot be read or run at all.
    """
    with RunSandboxes.of(inputs.config).in_force():
        return _check(recipe, inputs, groups, num_ranks, load)


def _check(recipe: Recipe, inputs: RunInputs, groups: int | None, num_ranks: int, load: Load) -> Result:
    begun = perf_counter()
    findings = [finding for each in data.CHECKS for finding in each(inputs)]
    about = _about(recipe, inputs)
    name = inputs.config.run_name or Path(inputs.config.output_dir).name
    done = partial(Result, run_name=name, model=recipe.model)
    if any(finding.level == "fail" and finding.name in FATAL for finding in findings):
        return done(about=about, findings=findings, num_checks=len(data.CHECKS), seconds=perf_counter() - begun)
    _log.info("Loading the model.")
    run = load(inputs)
    require_trainable(run.policy.model, run.policy.tokenizer)
    before_sampling = (*prompts.CHECKS, *learning_rate.CHECKS)
    findings += [finding for each in before_sampling for finding in each(run)]
    done = partial(
        done,
        about=[*about, *_about_subject(run, num_ranks)],
        prompts=prompts.shown_prompts(run),
        special_tokens=run.policy.tokenizer.all_special_tokens,
        lengths=prompts.lengths(run),
    )
    num_checks = len(data.CHECKS) + len(before_sampling) + 1
    with closing(run.engine):
        try:
            evidence = _evidence(run, groups)
        except (RewardError, EnvironmentFailedError) as error:
            findings.append(_breaks(error))
            return done(findings=findings, num_checks=num_checks, seconds=perf_counter() - begun)
        of_turns = () if inputs.environment is None else turns.CHECKS
        causes = (*rewards.OF_CAUSES, *noise.CHECKS)
        of_evidence = (*causes, *exploits.CHECKS, *of_turns, *completions.CHECKS, *rewards.OF_SIGNAL)
        findings += [finding for each in of_evidence for finding in each(evidence)]
        _log.info("Measuring a learner pass. No weight is changed.")
        price = cost.measure_cost(run, evidence.sampled)
        findings += [finding for each in machine.CHECKS for finding in each(evidence, price)]
        return done(
            findings=findings,
            num_checks=num_checks + len(of_evidence) + len(machine.CHECKS),
            seconds=perf_counter() - begun,
            evidence=evidence,
            cost=price,
        )


def _breaks(error: RewardError | EnvironmentFailedError) -> Finding:
    """What fails on a completion fails in training too, where it would end the run."""
    if isinstance(error, EnvironmentFailedError):
        return turns.mostly_fails(error)
    remedy = (
        "Mend the function: it has to return one number for every completion, the empty one too, "
        "and None where nobody could judge."
    )
    return Finding("reward_raises", "fail", str(error), remedy)


def _evidence(run: RunParts, groups: int | None) -> Evidence:
    from transformers import TrainerState

    count = num_groups(run, groups)
    _log.info(f"Sampling {count} groups of {run.config.num_generations} completions.")
    state = TrainerState()
    sampled = sample(run, count, state)
    _log.info("Scoring the completions a second time, and exploits.")
    is_played = run.inputs.environment is not None  # what answered the completions is used up
    again = () if is_played else score_as_the_program(run.training_scorer, sampled.groups, state).groups
    return Evidence(run, sampled, probe(run, sampled, state), again)


def _about(recipe: Recipe, inputs: RunInputs) -> list[tuple[str, str]]:
    held_out = "" if inputs.eval_problems is None else f", {len(inputs.eval_problems):,} held out"
    what = "every weight" if recipe.lora is None else f"a LoRA adapter of rank {recipe.lora.r}"
    lines = inputs.config.describe()
    rows = [
        ("model", f"{recipe.model}, training {what}"),
        ("data", f"{inputs.problems.name}, {len(inputs.problems):,} problems{held_out}"),
        *([] if inputs.environment is None else [("environment", _environment(inputs))]),
        ("rewards", ", ".join(_weighted(f.name, f.weight) for f in inputs.rewards)),
        ("step", lines[0]),
        *(("", line) for line in lines[1:]),
    ]
    return [(label, redact(value)) for label, value in rows]


def _environment(inputs: RunInputs) -> str:
    assert inputs.environment is not None
    return f"{inputs.environment.name}, {inputs.config.max_turns} turns at most"


def _weighted(name: str, weight: float) -> str:
    return name if weight == 1 else f"{name} (weight {weight:g})"


def _about_subject(run: RunParts, num_ranks: int) -> list[tuple[str, str]]:
    policy_model = run.policy.policy_model
    where = Machine(num_ranks, policy_model.device, policy_model.dtype)
    dtype = str(policy_model.dtype).removeprefix("torch.")
    return [
        ("parameters", str(count_parameters(run.policy.model))),
        ("machine", f"{policy_model.device.type}, {dtype}, engine {run.engine.capabilities.name}"),
        ("memory", str(plan_memory(run.policy.model, run.config, where, policy_model.limits))),
    ]
