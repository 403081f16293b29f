"""Translation of the keys that a user wrote, in whatever vocabulary, into the fields of the configuration.

Every key ends in one of five ways: it is a field; it is about the objective; it is translated into fields; it is
ignored with a note; it is refused with what to use instead. The tables of `trl_names.py` and `transformers_names.py`
decide.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from groupwise.config import guards
from groupwise.config import objective_keys as objective
from groupwise.config.compat import hints, served
from groupwise.config.compat.conventions import DEFAULT_FIELDS
from groupwise.config.compat.foreign import Foreign
from groupwise.config.compat.loss_aliases import WORDS
from groupwise.config.compat.transformers_names import TRANSFORMERS_FIELDS, TRANSFORMERS_LEGACY_FIELDS
from groupwise.config.compat.trl_names import NO_SERVERS, RLOO_FIELDS, TRL_FIELDS, TRL_LEGACY_FIELDS
from groupwise.config.fields import EnvironmentFields
from groupwise.config.mistakes import Mistakes, shown
from groupwise.config.normalize import tidy, whole
from groupwise.config.settings import Settings
from groupwise.errors import ConfigError, listed

_FIELDS = tuple(Settings.model_fields)
FIELDS = frozenset(_FIELDS)
"""The fields of the configuration."""

FOREIGN: dict[str, Foreign] = {
    entry.name: entry
    for table in (TRL_FIELDS, RLOO_FIELDS, TRANSFORMERS_FIELDS, TRL_LEGACY_FIELDS, TRANSFORMERS_LEGACY_FIELDS)
    for entry in table
}
"""Every key of TRL's GRPOConfig and of TrainingArguments, present or past."""

KNOWN_KEYS = dict.fromkeys((*_FIELDS, "objective", *objective.AXES, *WORDS, *FOREIGN)).keys()
"""Every key that is understood, our own fields first."""

_IDLE = {name for name, entry in FOREIGN.items() if entry.kind in ("ignored", "refused")}

_OF_ENVIRONMENTS = frozenset(EnvironmentFields.model_fields)

COMMON_KEYS = KNOWN_KEYS - _IDLE - _OF_ENVIRONMENTS - (frozenset(objective.AXES) - objective.READ)
"""Keys that do something whatever else is set: of what an unknown key may mean, these come first."""

ELSEWHERE = {
    "lr": "learning_rate",
    "optimizer": "optim",
    "kl_coef": "beta",
    "algorithm": "objective",
    "batch_size": "prompts_per_step",
    "group_size": "num_generations",
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("steps", "num_steps"), "max_steps"),
    **dict.fromkeys(("max_tokens", "max_new_tokens"), "max_completion_length"),
}
"""Word of other libraries -> the key here, where the spelling differs too much for a suggestion."""

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype",
    "no_cuda": "use_cpu",
    "activation_checkpointing": "gradient_checkpointing",
    "push_to_hub_model_id": "hub_model_id",
}
_GENERATION_KEYS = {
    "max_new_tokens": "max_completion_length",
    "stop_strings": "stop",
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")},
}


@dataclass(frozen=True)
class Translation:
    """The keys that were written and what has become of them so far. A stage returns a new one."""

    written: Mapping[str, Any]
    problems: Mistakes
    """Collects what is wrong, for all stages together."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Why a key has no effect -> the keys that were written and are ignored for that reason."""

    @property
    def conventions(self) -> str:
        """Whose defaults fill what was not written."""
        chosen = self.fields.get("conventions", "groupwise")
        return chosen if chosen in tuple(DEFAULT_FIELDS) else "groupwise"

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The fields with another default than in `Settings`, for those that are not set."""
        return DEFAULT_FIELDS[self.conventions]

    def value(self, name: str) -> Any:
        """A field as it is set so far, or its default under the conventions; None where it is that of `Settings`."""
        return self.fields.get(name, self.defaults.get(name))

    def asked(self, name: str) -> Any:
        """The value of a key that was written and is not None, else None."""
        value = self.written.get(name)
        return None if name in FOREIGN and FOREIGN[name].asks_for_nothing(value) else value

    def with_fields(self, **fields: Any) -> Translation:
        """With these fields, whatever they were before."""
        return replace(self, fields={**self.fields, **fields})

    def with_key(self, name: str, value: Any, source: str) -> Translation:
        """With a field set by the key `source`; a second, different value is a contradiction."""
        try:
            value = tidy(name, value)
        except ConfigError as error:
            self.problems.add(str(error))
            return self
        before = self.fields.get(name, value)
        if before != value:
            self.problems.add(f"{name} is {before!r}, but {source} makes it {value!r}. Keep one of them.")
        return self.with_fields(**{name: before})

    def with_note(self, sentence: str) -> Translation:
        return replace(self, notes=(*self.notes, sentence))

    def with_ignored(self, entry: Foreign) -> Translation:
        """With one more key that has no effect."""
        names = (*self.ignored.get(entry.sentence, ()), entry.name)
        return replace(self, ignored={**self.ignored, entry.sentence: names})


def translate(written: Mapping[str, Any], problems: Mistakes) -> Translation:
    """Sort the keys, then translate topic by topic."""
    written = {name: _mapping_of(value) if name in _MAPPINGS else value for name, value in written.items()}
    odd = {name: value for name, value in written.items() if _is_no_word(name, value)}
    for name, value in odd.items():
        problems.add(f"{name} is {shown(value)}; expected a word, a number or a switch.")
    state = Translation({name: value for name, value in written.items() if name not in odd}, problems)
    for name, value in state.written.items():
        state = _sort(state, name, value)
    for reason, names in state.ignored.items():
        state = state.with_note(f"{listed(names)} {'is' if len(names) == 1 else 'are'} ignored: {reason}.")
    for topic in (_servers, _renamed, _generation, _model_arguments, _precision, _schedule, _best, _order, _turns):
        state = topic(state)
    return state


_MAPPINGS = {"objective", "guards", "generation_kwargs"}
_MAPPINGS |= {name for name in (*_FIELDS, *FOREIGN) if name.endswith("_kwargs")}


def _mapping_of(value: Any) -> Any:
    """The mapping in a text of JSON, as a command line has it; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


_WITH_PARTS = {"objective", "gamma_pos", "gamma_neg", "generation_kwargs"}
_WITH_PARTS |= _IDLE


def _is_no_word(name: str, value: Any) -> bool:
    """Whether a key of another vocabulary has a value that is neither a word nor a number that a float can hold.

    The translations compare and count; fields of our own are checked with their type.
    """
    if name in FIELDS or name in _WITH_PARTS or name not in KNOWN_KEYS:
        return False
    is_plain = value is None or isinstance(value, str | int | float | Enum | os.PathLike)
    return not is_plain or (isinstance(value, int) and abs(value) > sys.float_info.max)


def _sort(state: Translation, name: str, value: Any) -> Translation:
    if name == "guards" and (renamed := guards.RENAMED.keys() & (value if isinstance(value, Mapping) else {})):
        for old in sorted(renamed):
            state = state.with_note(f"guards.{old} is called guards.{guards.RENAMED[old]} now.")
        value = guards.with_new_names(value)
    if name in FIELDS:
        return state if value is None else state.with_key(name, value, name)
    if name in objective.KEYS:
        return replace(state, objective={**state.objective, name: value})
    if name not in FOREIGN:
        state.problems.add_unknown(name, list(KNOWN_KEYS), common=COMMON_KEYS, elsewhere=ELSEWHERE)
    elif not FOREIGN[name].asks_for_nothing(value):
        return _meet(state, FOREIGN[name])
    return state


def _meet(state: Translation, entry: Foreign) -> Translation:
    """Refuse a foreign key, or note that it is ignored. The topics translate the rest."""
    if entry.name in served.WORDS and not served.means_servers(state.written):
        return state.with_ignored(replace(entry, sentence=NO_SERVERS))
    if entry.kind == "refused":
        state.problems.add(f"{entry.name} is not supported: {entry.sentence}.")
    elif entry.kind == "ignored":
        return state.with_ignored(entry)
    return state


def _servers(state: Translation) -> Translation:
    """The server of a script in TRL's words."""
    if not served.means_servers(state.written):
        return state
    state = state.with_key("servers", [served.address_of(state.written)], "use_vllm")
    timeout = state.asked("vllm_server_timeout")
    return state if timeout is None else state.with_key("server_timeout", timeout, "vllm_server_timeout")


def _renamed(state: Translation) -> Translation:
    """Another name for the same thing."""
    for old, new in _RENAMED.items():
        value = state.asked(old)
        if value is None and isinstance(state.written.get(old), bool):
            value = state.written[old]
        if value is not None:
            state = state.with_key(new, value, old)
    return state


def _generation(state: Translation) -> Translation:
    """`generation_kwargs` holds sampling fields under the names that transformers gives them."""
    asked = state.asked("generation_kwargs") or {}
    if not isinstance(asked, Mapping):
        state.problems.add(f"generation_kwargs is {shown(asked)}; expected a mapping such as {{top_k: 50}}.")
        return state
    for key, value in asked.items():
        if key in _GENERATION_KEYS:
            if value is not None:
                state = state.with_key(_GENERATION_KEYS[key], value, f"generation_kwargs.{key}")
        elif key in hints.GENERATION:
            nothing, instead = hints.GENERATION[key]
            if value is not None and value != nothing:
                state.problems.add(f"generation_kwargs.{key} is not supported: {instead}.")
        else:
            known = [f"generation_kwargs.{name}" for name in _GENERATION_KEYS]
            state.problems.add_unknown(f"generation_kwargs.{key}", known, "unsupported key")
    return state


def _model_arguments(state: Translation) -> Translation:
    """Dtype, attention and remote code in `model_init_kwargs` belong to the fields of that name."""
    arguments = state.fields.get("model_init_kwargs")
    if not isinstance(arguments, Mapping):
        return state
    quantization: Any = arguments.get("quantization_config")
    if hasattr(quantization, "to_dict"):
        arguments = {**arguments, "quantization_config": quantization.to_dict()}  # the record holds plain values
    moved = {"dtype": "dtype", "torch_dtype": "dtype"}
    moved |= {name: name for name in ("attn_implementation", "trust_remote_code")}
    for key, name in moved.items():
        if name == "dtype" and _is_of_weights(state, arguments.get(key)):
            continue
        if arguments.get(key) is not None:
            state = state.with_key(name, arguments[key], f"model_init_kwargs.{key}")
    return state.with_fields(model_init_kwargs={key: value for key, value in arguments.items() if key not in moved})


def _is_of_weights(state: Translation, dtype: Any) -> bool:
    """Whether float32 is only what the weights are loaded in, as TRL means it, and the products follow `bf16`."""
    is_float32 = str(dtype).removeprefix("torch.") in ("float32", "fp32")
    bf16 = state.written.get("bf16")
    return is_float32 and (bool(bf16) or (bf16 is None and state.conventions == "trl"))


def _precision(state: Translation) -> Translation:
    """`bf16: true` is bfloat16 where that is fast; `bf16: false` has an effect only where no dtype was written."""
    bf16 = state.written.get("bf16")
    if bf16 and state.fields.get("dtype") != "bfloat16":
        return state.with_key("dtype", "auto", "bf16")
    return state.with_fields(dtype="float32") if bf16 is False and "dtype" not in state.fields else state


def _schedule(state: Translation) -> Translation:
    """Warm-up as a share of the run, and the strategies."""
    warmup = state.fields.get("warmup_steps")
    if isinstance(warmup, float) and 0 < warmup < 1:
        fields = {name: value for name, value in state.fields.items() if name != "warmup_steps"}
        state = replace(state, fields=fields).with_key("warmup_ratio", warmup, "warmup_steps")
    logging = tidy("save_strategy", state.asked("logging_strategy"))
    if logging == "no":
        state = state.with_key("logging_steps", 0, "logging_strategy")
    elif logging not in {None, "steps"}:
        state = state.with_note(
            f"logging_strategy {logging} is ignored: `logging_steps` sets how often a line is shown."
        )
    return _evaluation(state)


def _evaluation(state: Translation) -> Translation:
    """`eval_steps` alone switches evaluation on; the strategy alone has the interval of the log."""
    fields = state.fields
    if fields.get("eval_steps") is not None:
        return state.with_fields(eval_strategy=fields.get("eval_strategy", "steps"))
    if fields.get("eval_strategy") != "steps":
        return state
    steps = state.value("logging_steps") or 500
    return state.with_fields(eval_steps=steps).with_note(
        f"eval_strategy steps without eval_steps: every {steps} steps."
    )


def _best(state: Translation) -> Translation:
    """What evaluations are compared by, spelt out for callbacks: `EarlyStoppingCallback` takes a null for "less"."""
    if state.fields.get("load_best_model_at_end") and state.fields.get("metric_for_best_model") is None:
        state = state.with_fields(metric_for_best_model="eval_reward")
    if state.fields.get("metric_for_best_model") is not None and state.fields.get("greater_is_better") is None:
        is_loss = str(state.fields["metric_for_best_model"]).endswith("loss")
        state = state.with_fields(greater_is_better=not is_loss)
    return state


def _order(state: Translation) -> Translation:
    """Whether the order is shuffled, and whether what is too little for a step is left out."""
    if state.asked("dataloader_drop_last"):
        state = state.with_key("drop_incomplete_step", True, "dataloader_drop_last")
    strategy = state.asked("train_sampling_strategy")
    if strategy == "sequential":
        return state.with_key("shuffle_dataset", False, "train_sampling_strategy")
    if strategy is None:
        return state
    return state.with_note(f"train_sampling_strategy {strategy} is ignored: completions are packed, not padded.")


def _turns(state: Translation) -> Translation:
    """Rounds of calls, after each of which there is one more turn."""
    rounds = whole(state.asked("max_tool_calling_iterations"))
    if rounds is None:
        return state
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 0:
        state.problems.add(f"max_tool_calling_iterations is {rounds!r}; expected a whole number of at least 0.")
        return state
    return state.with_key("max_turns", rounds + 1, "max_tool_calling_iterations")
