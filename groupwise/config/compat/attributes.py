"""Every public attribute and method of transformers' TrainingArguments that is no field: real here, or a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any


@contextmanager
def main_process_first(local: bool = True, desc: str = "work") -> Iterator[None]:
    """Nothing waits: there is one process."""
    yield


_ONE_PROCESS = {
    "process_index": 0,
    "local_process_index": 0,
    "world_size": 1,
    "should_log": True,
    "should_save": True,
    "place_model_on_device": True,
    "is_torch_greater_or_equal_than_2_8": True,
    "default_optim": "adamw",
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "train_batch_size": lambda config: config.per_device_train_batch_size,
    "eval_batch_size": lambda config: config.per_device_eval_batch_size,
    "ddp_timeout_delta": lambda config: timedelta(seconds=config.ddp_timeout),
    "device": lambda config: _device(config),
    "n_gpu": lambda config: int(_device(config).type == "cuda"),
    "distributed_state": lambda config: _distributed_state(config),
    "parallel_mode": lambda config: _parallel_mode(),
    "get_process_log_level": lambda config: lambda: _log_level(config),
    "get_warmup_steps": lambda config: config.settings.num_warmup_steps,
    "main_process_first": lambda config: main_process_first,
}

_ASSIGN = "assign the fields one by one, for example args.{0}, before a trainer has the configuration"
REFUSED = {
    "set_training": _ASSIGN.format("learning_rate = 1e-5"),
    "set_evaluate": _ASSIGN.format("eval_steps = 100"),
    "set_testing": "there is no prediction loop: use `groupwise generate`",
    "set_save": _ASSIGN.format("save_steps = 100"),
    "set_logging": _ASSIGN.format("logging_steps = 10"),
    "set_push_to_hub": _ASSIGN.format("push_to_hub = True"),
    "set_optimizer": _ASSIGN.format('optim = "adamw"'),
    "set_lr_scheduler": _ASSIGN.format('lr_scheduler_type = "cosine"'),
    "set_dataloader": "problems are drawn in the training process; there is no loader to set up",
}
"""Attribute -> what to do instead."""

NAMES = frozenset({*_ONE_PROCESS, *_READERS, *REFUSED})


def read_attribute(config: Any, name: str) -> Any:
    """The value or the method, for a `GRPOConfig`.

    Raises:
        AttributeError: one that has no meaning here, with what to use instead.
    """
    if name in REFUSED:
        raise AttributeError(f"GRPOConfig has no {name}: {REFUSED[name]}.")
    return _ONE_PROCESS[name] if name in _ONE_PROCESS else _READERS[name](config)


def accelerator_config() -> Any:
    """transformers' value, with what is the case here: batches are not dispatched to other processes."""
    from transformers.trainer_pt_utils import AcceleratorConfig

    return AcceleratorConfig(dispatch_batches=False)


def _device(config: Any) -> Any:
    from groupwise.world import pick_device

    return pick_device(use_cpu=config.use_cpu)


def _parallel_mode() -> Any:
    from transformers.training_args import ParallelMode

    return ParallelMode.NOT_PARALLEL


def _log_level(config: Any) -> int:
    """The number of `log_level`; passive leaves that of transformers as it is."""
    from transformers.training_args import trainer_log_levels
    from transformers.utils.logging import get_verbosity

    level = int(trainer_log_levels.get(config.log_level, -1))
    return int(get_verbosity()) if level == -1 else level


def _distributed_state(config: Any) -> Any:
    """accelerate's view of this process, as transformers keeps it."""
    from accelerate import PartialState

    return PartialState(cpu=_device(config).type == "cpu")
