"""The training loop. It reads like Algorithm 1 of DeepSeekMath (2402.03300); everything optional lives inside a noun.

collect   draw prompts, sample G completions for each, score them         collect.py, sampler.py, rewards/
score     log-probs under the old policy and the reference, where needed  learner.py
prepare   advantages relative to each completion's own group              advantages.py, algo/
update    num_minibatches x num_iterations optimizer steps                learner.py, algo/
follow    the engine takes the new weights, the reference when it is due  schedule.py
hooks     guards, curriculum, callbacks, record, evaluation, checkpoint   lifecycle/hooks.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.policy.policy_model import PolicyModel
from groupwise.rollout.engine import Engine
from groupwise.train.batch import Batch, Samples
from groupwise.train.collect import Collector
from groupwise.train.learner import Learner, Update
from groupwise.train.schedule import Schedule
from groupwise.train.step import Clock, Hooks, StepResult
from groupwise.types import ScoredGroup


@dataclass(frozen=True)
class Loop:
    """What the loop works with."""

    policy_model: PolicyModel
    engine: Engine
    collector: Collector
    learner: Learner
    schedule: Schedule
    hooks: Hooks
    trainer_state: Any = None
    """What reward functions get that ask for `trainer_state`."""


def train(loop: Loop) -> None:
    """Train until the schedule ends or a stop is asked for; a step that has begun is finished."""
    loop.engine.load_weights(loop.policy_model, version=loop.schedule.step)
    loop.hooks.start()
    for step in loop.schedule.steps():
        loop.hooks.before_step(step)
        result = take_step(loop, step)
        loop.hooks.after_step(result)
    loop.hooks.end()


def take_step(loop: Loop, step: int) -> StepResult:
    """One rollout and the optimizer steps it is used for."""
    learner, clock = loop.learner, Clock()
    collected = loop.collector.collect(step, loop.trainer_state)
    clock.parts.update(rollout=collected.rollout_s, reward=collected.reward_s)

    with clock.part("learn"):
        batch, update = learn(learner, collected.groups)
        loop.schedule.sync_reference(step)

    with clock.part("rollout"):
        loop.engine.load_weights(loop.policy_model, version=step)
    is_float32 = loop.policy_model.is_float32 and loop.engine.capabilities.is_float32
    return StepResult.of(step, collected, batch, update, clock, is_float32=is_float32)


def learn(learner: Learner, groups: Sequence[ScoredGroup]) -> tuple[Batch, Update]:
    """The optimizer steps that the scored groups of one rollout are used for."""
    with learner.world.lockstep("learning"):
        samples = Samples.of(groups, learner.policy_model.device)
        logprobs = learner.score(samples)
        batch = learner.prepare(samples, logprobs)
        return batch, learner.update(batch)
