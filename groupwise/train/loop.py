"""The training loop. It reads like Algorithm 1 of DeepSeekMath (2402.03300); everything optional lives inside a noun.

collect   sample G completions for each prompt of the step and judge them       collect.py
score     log-probs under the old policy and the reference, where needed        learner.py
prepare   advantages relative to each completion's own group                    learner.py, algo/
update    num_minibatches x num_iterations optimizer steps                      learner.py, algo/
follow    the engine takes the new weights; the reference follows when due      schedule.py
watch     the guards look at the step, and end the run where they have to       watch.py, guards.py, agreement.py
record    one line of metrics, the groups, the screen; evaluate and save        record.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from groupwise.data import Order
from groupwise.guards.agreement import require_agreement
from groupwise.guards.measures import Seen
from groupwise.lifecycle.record import Recorder, with_advantages
from groupwise.lifecycle.step_metrics import Clock, step_metrics
from groupwise.policy.network import Network
from groupwise.rollout.engine import Engine
from groupwise.train.collect import Collector
from groupwise.train.learner import Learner
from groupwise.train.schedule import Schedule


@dataclass
class Run:
    """The nouns of one run."""

    network: Network
    order: Order
    engine: Engine
    collector: Collector
    learner: Learner
    schedule: Schedule
    recorder: Recorder


def train(run: Run) -> None:
    """Train until the schedule ends or someone asks to stop; a step that has begun is finished."""
    run.engine.load_weights(run.network, version=run.schedule.step)
    require_agreement(run.collector, run.network, run.recorder.watch)
    run.recorder.begin()
    for step in run.schedule.steps():
        clock = Clock()
        run.recorder.begin_step(step)
        collected = run.collector.collect(step, run.recorder.state)
        clock.parts.update(rollout=collected.rollout_s, reward=collected.reward_s)

        with clock.part("learn"):
            scores = run.learner.score(collected.groups)
            batch = run.learner.prepare(collected.groups, scores)
            update = run.learner.update(batch)
            run.schedule.sync_reference(step)

        with clock.part("rollout"):
            run.engine.load_weights(run.network, version=step)
        collected.groups = with_advantages(collected.groups, batch)
        metrics = step_metrics(step, collected, update, clock)
        run.recorder.watch.look(step, Seen(metrics, collected.all_groups, update, run.network.dtype == torch.float32))
        run.recorder.end_step(metrics, collected, update)
    run.recorder.end()
