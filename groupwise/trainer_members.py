"""The members of the ecosystem's trainers that `GRPOTrainer` has beside its own: a base class without a run of its own.

`config/compat/trainer_names.py` is the table of all of them; the error for one that is not here has its sentence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from groupwise.algo import Objective
from groupwise.algo.masks import off_policy_keep, top_entropy_keep
from groupwise.algo.ratio import make_terms
from groupwise.checkpoint.whole import whole_model
from groupwise.config import GRPOConfig
from groupwise.config.compat.trainer_names import CALLED, KEPT, MEMBERS, check_override, keyword_note, why_no_member
from groupwise.errors import ConfigError
from groupwise.launch import local_rank
from groupwise.lifecycle.build import RunParts
from groupwise.lifecycle.callbacks import Callbacks
from groupwise.rewards.model import RewardModel
from groupwise.runs.writer import RunWriter
from groupwise.train.coefficients import Coefficients
from groupwise.world import World

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])

_SCREEN = ("ProgressCallback", "PrinterCallback", "NotebookProgressCallback", "RichProgressCallback")
_TRACKERS = ("WandbCallback", "TensorBoardCallback", "TrackioCallback")
"""Callbacks of transformers that stand for something that is no callback here."""


def led(method: Method) -> Method:
    """The method, run by rank 0 for all: the other ranks follow its orders, then return or raise what it did."""

    @wraps(method)
    def call(trainer: TrainerMembers, *args: Any, **kwargs: Any) -> Any:
        world = trainer.world
        if world.size == 1 or world.is_leading:
            return method(trainer, *args, **kwargs)
        if not world.is_leader:
            return trainer._follow()
        return world.lead(lambda: method(trainer, *args, **kwargs), lambda: vars(trainer.state))

    return cast(Method, call)


def by_leader(method: Method) -> Method:
    """The method on rank 0 alone, which writes and prints; the other ranks pass over it."""

    @wraps(method)
    def call(trainer: TrainerMembers, *args: Any, **kwargs: Any) -> Any:
        return method(trainer, *args, **kwargs) if trainer.world.is_leader else None

    return cast(Method, call)


class TrainerMembers:
    """What scripts read and call on a trainer of the ecosystem."""

    args: GRPOConfig
    parts: RunParts
    world: World
    """The ranks that train together."""
    output_dir: Path
    hub_model_id: str | None
    _callbacks: Callbacks
    _optimizers: tuple[Any, Any]
    _data_sets: tuple[Any, Any]
    _writer: RunWriter | None
    _coefficients: Coefficients | None = None
    """Of the run under way or last made."""
    _tag_names: Sequence[str] = ()
    """More tags of the model card."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what is never called.

        Raises:
            ConfigError: a subclass overrides something that the ecosystem's trainers call and this one does not.
        """
        super().__init_subclass__(**kwargs)
        bases = list(cls.__mro__)
        ours = [base for base in bases if base.__module__.startswith("groupwise.")]
        own = {name for base in ours for name in vars(base) if not name.startswith("__")}
        for base in bases[: bases.index(ours[0])] if ours and ours[0] is not cls else ():
            for name in vars(base):
                if (note := check_override(base.__name__, name)) is not None:
                    _log.warning(note)
                if name in own and name not in CALLED and name.startswith("_"):
                    raise ConfigError(f"{base.__name__} defines {name}, which groupwise needs itself: rename it.")

    def __getattr__(self, name: str) -> Any:
        """Attributes that the ecosystem copies from `args`, and constants; a sentence for what does not exist."""
        entry = MEMBERS.get(name)
        if entry is not None and entry.kind == "translated":
            return getattr(self.args, name)
        if entry is not None and entry.kind == "ignored":
            return entry.default
        raise AttributeError(why_no_member(name) or f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to set what would have no effect."""
        if name in MEMBERS and name not in KEPT:
            current = getattr(self, name, None)
            if current is value or (isinstance(value, bool | int | float | str) and current == value):
                return
            if (note := check_override(type(self).__name__, name)) is not None:
                _log.warning(note)
        super().__setattr__(name, value)

    @property
    def model(self) -> nn.Module:
        """The model that is trained, under its adapter."""
        return self.parts.policy.model

    @property
    def model_wrapped(self) -> nn.Module:
        """The same: nothing wraps it."""
        return self.model

    @property
    def ref_model(self) -> nn.Module | None:
        """The reference; None where there is none, or it is the model without its adapter."""
        reference = self.parts.reference
        return None if reference is None else reference.own_model

    @property
    def processing_class(self) -> Any:
        """The tokenizer."""
        return self.parts.policy.tokenizer

    @property
    def tokenizer(self) -> Any:
        """The same under its older name."""
        return self.processing_class

    @property
    def train_dataset(self) -> Any:
        """What was given to train on."""
        return self._data_sets[0]

    @property
    def eval_dataset(self) -> Any:
        """What was given to evaluate on."""
        return self._data_sets[1]

    @property
    def reward_funcs(self) -> list[Any]:
        """The reward functions and reward models."""
        calls = [function.call for function in self.parts.scorer.functions]
        return [call.model if isinstance(call, RewardModel) else call for call in calls]

    @property
    def reward_func_names(self) -> list[str]:
        """Their names in the records."""
        return [function.name for function in self.parts.scorer.functions]

    @property
    def reward_weights(self) -> Tensor:
        """One for each reward function, float32."""
        return torch.tensor(self.parts.scorer.weights, dtype=torch.float32)

    @property
    def reward_processing_classes(self) -> list[Any]:
        """The tokenizer of each reward model, None for a function."""
        calls = [function.call for function in self.parts.scorer.functions]
        return [call.tokenizer if isinstance(call, RewardModel) else None for call in calls]

    @property
    def optimizer(self) -> Any:
        """The optimizer of the run under way or last made; before it the one that was given, or None."""
        return self._callbacks.context.get("optimizer", self._optimizers[0])

    @property
    def lr_scheduler(self) -> Any:
        """The schedule of its learning rate; None before a run unless one was given."""
        return self._callbacks.context.get("lr_scheduler", self._optimizers[1])

    @property
    def entropy_coef(self) -> float:
        """The weight of the entropy bonus of the next optimizer step; `use_adaptive_entropy` changes it."""
        return self.args.objective.entropy_coef if self._coefficients is None else self._coefficients.entropy_coef

    @property
    def tools(self) -> list[Any]:
        """The functions that the policy can call, methods of environments among them."""
        pool = self.parts.inputs.environment
        firsts = [] if pool is None else [kind.instances(1)[0] for kind in pool.kinds.values()]
        found = {tool.name: tool.call for first in firsts for tool in getattr(first, "tools", ())}
        return list(found.values())

    @property
    def environments(self) -> list[Any] | None:
        """What has answered the latest completions, in their order; None where nothing answers."""
        pool = self.parts.inputs.environment
        return None if pool is None else pool.played

    @property
    def environment_factories(self) -> dict[Any, Any] | None:
        """What makes the environments, by the name that the data has for them."""
        pool = self.parts.inputs.environment
        return None if pool is None else {kind or None: each.make for kind, each in pool.kinds.items()}

    @property
    def state(self) -> Any:
        """The ecosystem's `TrainerState`: `global_step`, `epoch`, `log_history`, ..."""
        return self._callbacks.state

    @property
    def control(self) -> Any:
        """The ecosystem's `TrainerControl`, which callbacks set."""
        return self._callbacks.control

    @property
    def callback_handler(self) -> CallbackHandlerView:
        """The callbacks as a list, and the calls that change it."""
        return CallbackHandlerView(self)

    @property
    def accelerator(self) -> AcceleratorView:
        """What scripts read of an `accelerate.Accelerator`."""
        return AcceleratorView(self.parts.policy.policy_model.device, self.world)

    @property
    def is_in_train(self) -> bool:
        """Whether a run is under way."""
        return self._writer is not None

    def is_world_process_zero(self) -> bool:
        """Whether this process writes files: rank 0 does."""
        return self.world.is_leader

    def is_local_process_zero(self) -> bool:
        """Whether this process prints: rank 0 does, on its machine."""
        return self.world.is_leader

    def add_callback(self, callback: Any) -> None:
        """Add a `transformers.TrainerCallback`, an object or a class.

        Raises:
            ConfigError: it has no method of a TrainerCallback.
        """
        from groupwise.lifecycle.arguments import check_objects

        check_objects([callback], (None, None))
        self._callbacks.add(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Take out a callback, or the first of that class, and return it; None where there is none."""
        found = self._callbacks.pop(callback)
        name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
        if found is None and name in (*_SCREEN, *_TRACKERS):
            what = "report_to chooses the trackers" if name in _TRACKERS else "GRPOTrainer(screen=...) the screen"
            _log.warning(f"There is no {name} to remove: {what}.")
        return found

    def remove_callback(self, callback: Any) -> None:
        """Take out a callback, or the first of that class; nothing happens where there is none."""
        self.pop_callback(callback)

    def get_learning_rates(self) -> list[float]:
        """The learning rate of every group of the optimizer.

        Raises:
            ConfigError: there is no optimizer before `train`.
        """
        return [group["lr"] for group in self._made_optimizer().param_groups]

    def get_optimizer_group(self, param: Any = None) -> Any:
        """The optimizer's group that holds a parameter, or all groups.

        Raises:
            ConfigError: there is no optimizer before `train`.
        """
        groups = self._made_optimizer().param_groups
        if param is None:
            return [group["params"] for group in groups]
        return next((group for group in groups if any(param is held for held in group["params"])), None)

    def _made_optimizer(self) -> Any:
        if self.optimizer is None:
            raise ConfigError("There is no optimizer yet: train() makes it, or give GRPOTrainer(optimizers=...).")
        return self.optimizer

    def get_num_trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @staticmethod
    def get_off_policy_mask(
        advantages: Tensor,
        per_token_logps: Tensor,
        sampling_per_token_logps: Tensor,
        mask: Tensor,
        off_policy_threshold: float,
    ) -> Tensor:
        """1 for each sequence that off-policy masking keeps, else 0, of shape (N, 1) and the type of `mask`.

        `advantages` is (N, 1); log-probs and `mask` are (N, T). A token whose sampled log-prob is NaN counts as no gap.
        """
        objective = Objective(off_policy_threshold=off_policy_threshold)
        is_token_NT = mask > 0
        terms = make_terms(objective, per_token_logps, is_token_NT, advantages.expand(mask.shape))
        sampled_NT = torch.where(sampling_per_token_logps.isnan(), per_token_logps, sampling_per_token_logps)
        keep_NT = off_policy_keep(objective, replace(terms, advantage_NT=advantages), sampled_NT, None)
        assert keep_NT is not None
        return keep_NT.to(mask.dtype)

    def get_high_entropy_mask(self, entropies: Tensor, mask: Tensor, threshold: float) -> Tensor:
        """The tokens of `mask` (N, T) whose entropy reaches its quantile `threshold` over them, as a boolean (N, T)."""
        is_token_NT = mask > 0
        return top_entropy_keep(1 - threshold, entropies, is_token_NT) & is_token_NT

    @staticmethod
    def metrics_format(metrics: dict[str, Any]) -> dict[str, Any]:
        """Metrics as `log_metrics` prints them: rounded, seconds as times."""
        from transformers.trainer_pt_utils import metrics_format

        formatted: dict[str, Any] = metrics_format(metrics)
        return formatted

    @by_leader
    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print the metrics of a split ("train", "eval", "test"), one a line."""
        shown = {name: str(value) for name, value in self.metrics_format(dict(metrics)).items()}
        names, values = max(map(len, shown), default=0), max(map(len, shown.values()), default=0)
        print(f"***** {split} metrics *****")
        for name in sorted(shown):
            print(f"  {name: <{names}} = {shown[name]:>{values}}")

    @by_leader
    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write `<split>_results.json` into `output_dir`; `combined` adds the metrics to `all_results.json` too."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        _write_json(self.output_dir / f"{split}_results.json", metrics)
        if combined:
            path = self.output_dir / "all_results.json"
            earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            _write_json(path, {**earlier, **metrics})

    @by_leader
    def save_state(self) -> None:
        """Write `trainer_state.json` into `output_dir`."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.state.save_to_json(str(self.output_dir / "trainer_state.json"))

    @led
    def save_model(
        self, output_dir: str | Path | None = None, _internal_call: bool = False, *, merge: bool = False
    ) -> Path:
        """Write adapter (or model) and tokenizer to `output_dir`, by default the run's own; returns the folder.

        `merge` writes a plain model with the adapter multiplied in. `train` writes the model into the folder `final`
        of the run without a call; the files of a run and those of a model never have the same name.
        `_internal_call` is transformers' and has no effect.

        Raises:
            ModelError: weights that cannot be saved, or an adapter that cannot be merged.
            OSError: the folder cannot be written.
        """
        from groupwise.policy.save import save_merged, save_policy

        save = save_merged if merge else save_policy
        with whole_model(self.parts.policy.policy_model):
            return save(self.model, self.processing_class, Path(output_dir) if output_dir else self.output_dir)

    @by_leader
    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | Sequence[str] | None = None,
        *,
        merge: bool = False,
        **others: Any,
    ) -> None:
        """Write the card of the run as `README.md` into `output_dir`; before a run there is nothing to describe.

        `merge`: the card belongs to a plain model with the adapter multiplied in. `others` are transformers', refused.

        Raises:
            ConfigError: an argument that has no meaning here.
        """
        note_keywords("create_model_card", **others)
        from groupwise.export import write_card_of_run
        from groupwise.policy.adapter import has_adapter
        from groupwise.report.card import CardWords

        own = (tags,) if isinstance(tags, str) else tuple(tags or ())
        words = CardWords(model_name, dataset_name, (*own, *self._tag_names))
        is_adapter = has_adapter(self.model) and not merge
        if not write_card_of_run(self.output_dir, self._repository, words, is_adapter=is_adapter):
            _log.warning("There is no run to describe yet, so no model card is written: call train() first.")

    @property
    def _repository(self) -> str:
        """The name of the Hub repository that is uploaded to."""
        return self.hub_model_id or self.output_dir.resolve().name

    @led
    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        merge: bool = False,
        **card: Any,
    ) -> str | Future[str]:
        """Upload model, tokenizer and model card to the Hub repository `hub_model_id`; returns its address.

        Without a `hub_model_id` the repository has the name of `output_dir`. `blocking=False` uploads in the background
        and returns a Future of the address. `token`, `private` and `revision` (a branch) are the Hub's; `private` is by
        default `args.hub_private_repo`. `merge` uploads a plain model. `card` goes to `create_model_card`.

        Raises:
            RunError: the Hub refuses the upload or cannot be reached; with `blocking=False` the Future raises it.
            ConfigError, ModelError: as `create_model_card` and `save_model`.
        """
        from groupwise.export import prepare_upload, upload

        more: dict[str, Any] = {"merge": True} if merge else {}
        self.create_model_card(**{"model_name": self._repository.rpartition("/")[2]} | card, **more)
        with ExitStack() as stack:
            scratch = stack.enter_context(TemporaryDirectory())
            self.save_model(scratch, _internal_call=True, **more)
            prepare_upload(self.output_dir, Path(scratch))
            is_private = self.args.hub_private_repo if private is None else private
            keep = stack.pop_all()

        def send() -> str:
            with keep:
                message = commit_message or "End of training"
                return upload(
                    scratch, self._repository, private=is_private, message=message, token=token, revision=revision
                )

        return send() if blocking else _in_background(send)


class AcceleratorView:
    """The parts of an `accelerate.Accelerator` that have a meaning here."""

    sync_gradients = True

    def __init__(self, device: torch.device, world: World) -> None:
        self.device = device
        self._world = world
        self.num_processes, self.process_index, self.local_process_index = world.size, world.rank, local_rank()
        self.is_main_process = self.is_local_main_process = world.is_leader
        self.is_last_process = world.rank == world.size - 1
        self.use_distributed = world.size > 1

    def print(self, *values: Any, **kwargs: Any) -> None:
        """Print on rank 0."""
        if self._world.is_leader:
            print(*values, **kwargs)

    def wait_for_everyone(self) -> None:
        """Wait until every rank has come here."""
        self._world.gather(None, "wait_for_everyone of the script")

    def unwrap_model(self, model: Any, *_: Any, **__: Any) -> Any:
        """The model itself: nothing wraps it."""
        return model

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks, one after another along their first dimension."""
        found = self._world.gather(tensor.detach().cpu(), "gather of the script")
        return tensor if len(found) == 1 else torch.cat(found).to(self.device)

    gather_for_metrics = gather

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(each for each in dir(self) if not each.startswith("_"))
        raise AttributeError(
            f"trainer.accelerator has no {name}: groupwise trains without an Accelerator. It has {known}."
        )


class CallbackHandlerView:
    """The list of callbacks, with transformers' calls that change it."""

    def __init__(self, trainer: TrainerMembers) -> None:
        self._trainer = trainer

    @property
    def callbacks(self) -> list[Any]:
        """A copy of the list."""
        return self._trainer._callbacks.listed

    @property
    def callback_list(self) -> str:
        """Their classes, one a line."""
        return "\n".join(type(callback).__name__ for callback in self.callbacks)

    def add_callback(self, callback: Any) -> None:
        """As the trainer's."""
        self._trainer.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """As the trainer's."""
        return self._trainer.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """As the trainer's."""
        self._trainer.remove_callback(callback)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"trainer.callback_handler has no {name}: groupwise calls the events itself. It has callbacks, "
            "callback_list, add_callback, pop_callback and remove_callback."
        )


def note_keywords(method: str, **values: Any) -> None:
    """Note the keywords of a method that have no effect; `ConfigError` for one that is refused."""
    for name, value in values.items():
        if (note := keyword_note(f"{method}({name})", value)) is not None:
            _log.warning(note)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=4, sort_keys=True), encoding="utf-8")


def _in_background(send: Any) -> Future[str]:
    """Run it in a thread that the end of the program waits for."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="groupwise-upload")
    try:
        return executor.submit(send)
    finally:
        executor.shutdown(wait=False)
