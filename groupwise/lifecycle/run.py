"""One run of a trainer: its train loop, the hooks that follow it, and what they write to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from groupwise.checkpoint.best import Best, FollowBest
from groupwise.checkpoint.checkpoint_writer import CheckpointWriter
from groupwise.checkpoint.fingerprint import Origin
from groupwise.checkpoint.hook import CheckpointHook
from groupwise.checkpoint.parts import Saveable, state_of
from groupwise.checkpoint.rollback import roll_back
from groupwise.checkpoint.share_state import share_state
from groupwise.data import Order
from groupwise.guards.agreement import AgreementProbe
from groupwise.guards.distinct_answers import DistinctAnswers
from groupwise.guards.monitor import GuardMonitor
from groupwise.lifecycle.build import RunParts
from groupwise.lifecycle.callbacks import CallbackHook, Callbacks, Log
from groupwise.lifecycle.evaluate import EvaluationHook
from groupwise.lifecycle.follow_curriculum import CurriculumHook
from groupwise.lifecycle.hooks import RunHooks
from groupwise.lifecycle.record import LogHook, RecordHook
from groupwise.lifecycle.served_rollouts import ServersHook
from groupwise.lifecycle.solved import Solved
from groupwise.lifecycle.totals import Totals
from groupwise.policy.save import ModelWriter
from groupwise.rollout.served.served_engine import ServedEngine
from groupwise.runs.folder import RunFolder
from groupwise.runs.screen import Screen
from groupwise.runs.trackers import Trackers
from groupwise.runs.writer import RunWriter
from groupwise.train.ahead import Ahead
from groupwise.train.collect import Collector
from groupwise.train.learner import Learner
from groupwise.train.loop import Loop
from groupwise.train.schedule import Schedule
from groupwise.train.shared import SharedCollector


@dataclass(frozen=True)
class Outputs:
    """What a run writes to and shows itself on."""

    folder: RunFolder
    writer: RunWriter
    model_writer: ModelWriter
    screen: Screen
    trackers: Trackers
    callbacks: Callbacks
    log: Log
    """Adds an entry to every log: the trainer's own method, which a subclass may extend."""
    evaluate: Callable[[], Mapping[str, Any] | None]
    """Evaluates and logs: the trainer's own method too."""


@dataclass(frozen=True)
class Run:
    """The parts of a run that change while it trains."""

    loop: Loop
    outputs: Outputs
    guards: GuardMonitor
    evaluation: EvaluationHook
    log: LogHook
    checkpoints: CheckpointHook
    hooks: RunHooks
    parts: Mapping[str, Saveable]
    """Name in a checkpoint -> the part, for everything beside tensors."""

    @property
    def schedule(self) -> Schedule:
        return self.loop.schedule

    @property
    def learner(self) -> Learner:
        return self.loop.learner

    @property
    def state(self) -> Any:
        """The ecosystem's trainer state."""
        return self.outputs.callbacks.state


def start_run(
    parts: RunParts,
    order: Order,
    schedule: Schedule,
    learner: Learner,
    origin: Origin,
    outputs: Outputs,
) -> Run:
    """Put loop and hooks together, in the order in which hooks follow a step."""
    config, screen, writer = parts.config, outputs.screen, outputs.writer
    callbacks = outputs.callbacks
    learner.on_progress = lambda done, total: screen.progress("learn", done, total)
    collector = Collector(order, parts.sampler, parts.training_scorer, config, screen.progress)
    ahead: Ahead | None = None
    if config.rollout_lag:
        assert isinstance(parts.engine, ServedEngine)
        ahead = Ahead(collector, parts.engine, schedule, config.rollout_lag)

    def go_back(before: int) -> int | None:
        step = roll_back(outputs.folder, learner, before=before)
        share_state(learner, learner.world)
        return step

    probe = AgreementProbe(parts.sampler, parts.policy.policy_model, config.num_generations)
    guards = GuardMonitor(config.guards, writer, schedule.stop, probe, go_back)
    distinct = DistinctAnswers(parts.answer_of)
    solved = Solved(parts.training_scorer.highest)
    totals = Totals(ahead or order, callbacks, parts.policy.policy_model.device)
    evaluation = EvaluationHook(parts.evaluators, outputs.evaluate, schedule, callbacks, screen)
    log = LogHook(callbacks, outputs.log, config, evaluation.prefixes or ["eval"])
    best = Best(config, evaluation.of_step)
    named: dict[str, Saveable] = {
        "order": order,
        "totals": totals,
        "solved": solved,
        "guards": guards,
        "callbacks": callbacks,
        "evaluation": evaluation,
        "log": log,
        "best": best,
    }

    if ahead is not None:
        named = {"ahead": ahead, **named}  # first: it waits for the draws that are under way

    def state() -> dict[str, Any]:
        return state_of(named, learner)

    checkpoint_writer = CheckpointWriter(writer, learner, outputs.model_writer, state, origin, callbacks.as_json)
    checkpoints = CheckpointHook(checkpoint_writer, best, schedule, guards, callbacks)
    hooks = RunHooks(
        measuring=[
            distinct,
            guards,
            solved,
            totals,
            CurriculumHook(order, config, writer),
            ServersHook(parts.engine, writer),
        ],
        finishing=[
            CallbackHook(callbacks, schedule, ahead or order),
            log,
            evaluation,
            FollowBest(best, callbacks),
            RecordHook(writer, screen, checkpoint_writer.exact.finish, outputs.trackers, config),
            checkpoints,
        ],
        exact=checkpoint_writer.exact,
        writer=writer,
        takes_evaluation=lambda: callbacks.take("should_evaluate"),
        are_tokens_recorded=config.are_tokens_recorded,
    )
    policy_model = parts.policy.policy_model
    shared = SharedCollector(ahead or collector, learner.world)
    loop = Loop(policy_model, parts.engine, shared, learner, schedule, hooks, callbacks.state)
    return Run(loop, outputs, guards, evaluation, log, checkpoints, hooks, named)
