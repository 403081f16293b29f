"""The ingredients of a recipe that have keys of their own: data, rewards, adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from groupwise.config.fields import Count, NonNegative, Section
from groupwise.config.names import DATASETS, REQUIRED_PARAMETERS, REWARD_PARAMETERS
from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.call_limits import OnFailure
from groupwise.rewards.shaping_rules import Normalise, Shaping
from groupwise.rewards.spec_rules import check_spec, unique_names

_FILE_FUNCTION = re.compile(r".+\.py:\w+")
_MODULE_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Spec(Section):
    """A mapping inside a recipe, which answers an unknown key with the nearest one."""

    other_words: ClassVar[Mapping[str, str]] = {}
    """Word for a key elsewhere -> the key here, where the spelling does not lead to it."""

    @model_validator(mode="before")
    @classmethod
    def _knows_every_key(cls, written: Any) -> Any:
        known = tuple(cls.model_fields)
        unknown = [str(key) for key in written if key not in known] if isinstance(written, Mapping) else []
        if unknown:
            near = [
                did_you_mean(key, known, elsewhere=cls.other_words) or f" The keys are {', '.join(known)}."
                for key in unknown
            ]
            raise ValueError(" ".join(f'unknown key "{key}".{hint}' for key, hint in zip(unknown, near, strict=True)))
        return written


class DataSpec(Spec):
    """Data set"""

    path: Annotated[str, Field(min_length=1)]
    """Packaged name, local JSONL, CSV or Parquet file or folder, or Hub id."""
    split: str | None = None
    """Rows to train on: a name, a slice or both (`train`, `[:90%]`, `train[100:]`); null is train."""
    eval_split: str | None = None
    """Held-out rows for evaluation; null evaluates nothing unless `eval_path` is set."""
    eval_path: str | None = None
    """Data set of the held-out rows, where it is another one."""
    subset: str | None = None
    """Configuration of a data set on the Hub that has several."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns to rename: new name -> the data set's own (`{prompt: question}`)."""

    @model_validator(mode="before")
    @classmethod
    def _name_is_path(cls, written: Any) -> Any:
        if isinstance(written, Mapping) and "name" in written:
            if "path" in written:
                raise ValueError("has name and path, which mean the same. Keep path; a Hub configuration is subset.")
            return {("path" if key == "name" else key): value for key, value in written.items()}
        return written

    @field_validator("path")
    @classmethod
    def _is_no_misspelt_name(cls, path: str) -> str:
        name = path.partition("?")[0]
        is_plain = not re.search(r"[/.\\~]", name) and not Path(name).exists()
        if is_plain and name not in DATASETS and (near := did_you_mean(name, DATASETS)):
            raise ValueError(f'there is no data set "{name}".{near}')
        return path

    def resolved(self) -> dict[str, Any]:
        """Every key with its value."""
        return self.model_dump()


class RewardSpec(Spec):
    """Reward"""

    name: str | None = None
    """Shipped reward; beside `function` or `model`, the name its numbers are recorded under."""
    function: str | None = None
    """`file.py:function` or `module:function`."""
    model: str | None = None
    """Hub id or folder of a sequence-classification model."""
    weight: float | None = None
    """Weight in the sum; null is 1, or the number in `reward_weights`."""
    clip: tuple[float | None, float | None] | None = None
    """Lowest and highest value that counts; null leaves an end open (`[-100, null]`)."""
    normalise: Normalise | None = None
    """Before the weight: map the ends of `clip` to 0 and 1, or standardise within the group or over the whole batch."""
    when: dict[str, float] | None = None
    """Gates: this reward counts 0 unless every reward named here is at least its number (`{math: 1}`)."""
    unless: dict[str, float] | None = None
    """Gates: this reward counts 0 where a reward named here is at least its number."""
    times: str | list[str] | None = None
    """Rewards that this one is multiplied by."""
    timeout_s: NonNegative | None = None
    """Seconds for one call with all its completions; null is 600, and 0 sets no limit."""
    on_failure: OnFailure | None = None
    """A call that raises or takes too long: null and stop end the run, none leaves its completions unscored."""
    isolated: bool | None = None
    """Whether a `function` runs in a process of its own, so that a crash or a hang does not take the run with it."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of a shipped reward (`target: 50`); they may stand beside `name` as well."""
    tokenizer: str | None = None
    """Tokenizer of a reward model; null takes the model's own."""
    batch_size: Count | None = None
    """Completions that a reward model scores at a time."""

    @classmethod
    def in_full(cls, written: Any) -> Any:
        """The mapping that a short form stands for: a name alone, or parameters beside the name."""
        if isinstance(written, str):
            written = {_kind(written): written}
        if not isinstance(written, Mapping) or written.get("name") not in REWARD_PARAMETERS:
            return written
        own = written.get("params") or {}
        if "function" in written or "model" in written or not isinstance(own, Mapping):
            return written
        params = {key: value for key, value in written.items() if key not in cls.model_fields}
        rest = {key: value for key, value in written.items() if key not in params}
        return {**rest, "params": {**params, **own}}

    @model_validator(mode="after")
    def _is_one_reward(self) -> RewardSpec:
        if self.params and (self.function is not None or self.model is not None):
            raise ValueError("params are for shipped rewards; a function gets the columns of the data set.")
        check_spec(self.resolved(), REWARD_PARAMETERS, _parameters_of)
        return self

    @property
    def recorded_as(self) -> str:
        """The name its numbers get in the record, which gates of other rewards refer to."""
        of_function = (self.function or "").rpartition(":")[2].rpartition(".")[2]
        return self.name or of_function or Path(str(self.model)).name

    def resolved(self) -> dict[str, Any]:
        """The mapping that `rewards.resolve_rewards` takes: parameters beside the name, nothing that was not set."""
        kept = self.model_dump(exclude={"params"}, exclude_none=True)
        return {**kept, **self.params}


class LoraSpec(Spec):
    """Adapter"""

    other_words: ClassVar[Mapping[str, str]] = {
        "rank": "r", "lora_r": "r", "lora_rank": "r", "dim": "r", "alpha": "lora_alpha", "dropout": "lora_dropout",
        "modules": "target_modules", "targets": "target_modules", "dora": "use_dora", "rslora": "use_rslora",
    }  # fmt: skip

    r: Count = 16
    """Rank."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the adapter's product is multiplied by `lora_alpha` / `r`."""
    target_modules: str | list[str] = "all-linear"
    """Modules that get an adapter: all linear layers but the head, a list of names, or one pattern."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Kept for the record: groupwise trains without dropout in every pass."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that are trained too."""
    use_rslora: bool = False
    """Whether the scale is `lora_alpha` / sqrt(`r`)."""
    use_dora: bool = False
    """Whether direction and magnitude are trained apart (DoRA)."""
    modules_to_save: list[str] | None = None
    """Modules trained in full beside the adapter."""
    layers_to_transform: list[int] | int | None = None
    """Indices of the layers that get an adapter; null is all."""
    init_lora_weights: bool | str = True
    """Initialisation, as peft names it; true starts at the model itself."""

    def resolved(self) -> dict[str, Any]:
        """Every key with its value."""
        return self.model_dump()

    def peft_arguments(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig`."""
        return {"task_type": "CAUSAL_LM", **self.model_dump()}


def wrong_gates(
    rewards: Sequence[RewardSpec], of_task: Sequence[str] = (), of_environment: Sequence[str] = ()
) -> Iterator[str]:
    """A sentence for each reward whose gates name no other reward of the recipe, its task's and environment's too."""
    names = unique_names([*of_task, *(reward.recorded_as for reward in rewards), *of_environment])
    for index, reward in enumerate(rewards):
        try:
            Shaping.of(reward.resolved()).check(names[len(of_task) + index], names)
        except ConfigError as error:
            yield f"rewards.{index}: {error}"


def _parameters_of(name: str) -> dict[str, bool]:
    """Parameter of a shipped reward -> whether it has no default."""
    return {key: key in REQUIRED_PARAMETERS.get(name, ()) for key in REWARD_PARAMETERS[name]}


def _kind(spec: str) -> str:
    """Which key a reward written as one text belongs under."""
    if _FILE_FUNCTION.fullmatch(spec) or _MODULE_FUNCTION.fullmatch(spec):
        return "function"
    if spec not in REWARD_PARAMETERS and ("/" in spec or Path(spec).is_dir()):
        return "model"
    return "name"
