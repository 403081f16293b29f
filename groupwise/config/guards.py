"""The guards: what each one watches, from which value on it acts, and where that bound comes from.

`docs/make_tables.py` makes docs/guards.md from this table. `guards/measures.py` and `guards/agreement.py` compute the
watched values; a test holds the names equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from groupwise.errors import ConfigError, did_you_mean

Action = Literal["warn", "stop", "rollback", "off"]
Side = Literal["above", "at least", "below"]

WARN_EVERY = 50
"""Steps after which a guard warns again while what it warned of goes on."""
FIRST_STEPS = 5
"""Steps from which the usual mismatch of engine and learner in this run is taken."""
SMALLEST_GAP = 2.5e-4
"""A smaller gap counts as this one: growing from rounding to a little more rounding is no growth."""

_IN_TRAINING = ("warn", "stop", "rollback", "off")
_BEFORE_TRAINING = ("warn", "stop", "off")


@dataclass(frozen=True, slots=True)
class GuardSetting:
    """The keys of a guard in a recipe."""

    action: str
    threshold: float
    steps: int = 1
    """Measured steps in a row beyond the threshold after which the guard acts."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One row of the table."""

    name: str
    watches: str
    message: str
    """Sent when it acts; `{value}` is what was measured."""
    side: Side
    default: GuardSetting
    source: str
    """Of the threshold: a paper, a bug that another project knows, or what was measured here."""
    remedy: str
    smallest: float = 0.0
    largest: float = math.inf
    is_before_training: bool = False

    def bound(self, setting: GuardSetting) -> str:
        """When it acts, in words."""
        text = f"{self.side} {setting.threshold:g}"
        return text + (f", {setting.steps} steps in a row" if setting.steps > 1 else "")

    @property
    def actions(self) -> tuple[str, ...]:
        """Before training there is nothing to roll back to."""
        return _BEFORE_TRAINING if self.is_before_training else _IN_TRAINING

    def is_beyond(self, value: float, threshold: float) -> bool:
        """Whether a value calls the guard; one that is not a number does."""
        if math.isnan(value):
            return True
        if self.side == "below":
            return value < threshold
        return value > threshold or (self.side == "at least" and value == threshold)


GUARDS = (
    Guard(
        "agreement",
        "Before the first step, in float32: mean exp |log-prob of the engine - log-prob of the learner| over one group "
        "that is sampled for the purpose",
        "the log-probs of engine and learner disagree in float32: mean exp|difference| {value:.4f}",
        "above",
        GuardSetting("stop", 1.001),
        "two float32 computations of one model differ by rounding: 1.000003 to 1.000006 for SmolLM2-135M, measured "
        "here. What a gap does to the loss: NeMo RL's guide, Add New Models",
        "Do what the message names as the likely cause, or set engine: transformers.",
        smallest=1.0,
        is_before_training=True,
    ),
    Guard(
        "precision",
        "The same in a run whose products are bfloat16",
        "the log-probs of engine and learner disagree in bfloat16: mean exp|difference| {value:.4f}",
        "above",
        GuardSetting("warn", 1.05),
        "NeMo RL's guide, Add New Models; 1.013 to 1.018 measured here (the demo, the case study)",
        "Set dtype: float32, or correct for the gap with mismatch: token_truncate.",
        smallest=1.0,
        is_before_training=True,
    ),
    Guard(
        "precision_limit",
        "The same in a run whose products are bfloat16",
        "the log-probs of engine and learner disagree in bfloat16: mean exp|difference| {value:.4f}",
        "above",
        GuardSetting("stop", 1.15),
        "ours: ten times the gap that was measured, which rounding alone has not made",
        "Set dtype: float32; if the gap stays, do what the message names as the likely cause.",
        smallest=1.0,
        is_before_training=True,
    ),
    Guard(
        "non_finite",
        "Optimizer steps in a row that were left out because the loss or the gradient was not finite (each is left "
        "out whatever the action: weights, optimizer and schedule stay as they were)",
        "{value:g} updates in a row were not finite and left out",
        "at least",
        GuardSetting("stop", 3),
        "runs that went on with NaN in their weights: verl #721, ms-swift #3136; three: ours, as one overflow in one "
        "batch is survived, and the same on three batches is no accident",
        "Lower learning_rate or set dtype: float32, look at the completions of these steps, and resume: no weight "
        "was touched.",
        smallest=1.0,
    ),
    Guard(
        "repeated_token",
        "Share of the completions in which one token makes up 90% of eight tokens or more",
        "{value:.0%} of the completions repeat one token",
        "at least",
        GuardSetting("warn", 0.5, steps=3),
        "completions that turn into '!!!!': verl #721, ms-swift #3372; half and three steps: ours. It warns, because a "
        "reward can ask for just that",
        "If no reward wants that, go back to an earlier checkpoint with a lower learning_rate or a larger beta.",
        largest=1.0,
    ),
    Guard(
        "empty",
        "Share of the completions without any text",
        "{value:.0%} of the completions are empty",
        "at least",
        GuardSetting("warn", 0.9, steps=3),
        "ours: a policy that ends at once has stopped exploring",
        "Let the rewards give an empty completion less than a bad answer, and look at the chat template.",
        largest=1.0,
    ),
    Guard(
        "truncated",
        "Share of the completions that were cut off at max_completion_length",
        "{value:.0%} of the completions are cut off at max_completion_length",
        "at least",
        GuardSetting("warn", 1.0, steps=20),
        "measured here: the case study cuts off all of its first step and never all of many steps in a row",
        "Raise max_completion_length, or reward an answer that ends.",
        largest=1.0,
    ),
    Guard(
        "one_answer",
        "How often the answers to two different prompts of a step differ, as a share of how often the data's own "
        "answers to them do (of always, where the data has none); not where an environment answers",
        "the policy gives different prompts one answer: theirs differ {value:.0%} as often as the data's",
        "below",
        GuardSetting("warn", 0.2, steps=10),
        "ours: a policy that answers right is at 100%, one that gives everything the same label, and another to one "
        "prompt in ten, below 20%; ten steps, as an untrained model may begin there. It warns, because a reward can "
        "ask for one answer",
        "Read the completions of the last step. If they should differ, go back to an earlier checkpoint with a lower "
        "learning_rate or a larger beta, balance the answers of the data, and let the reward pay no answer more often "
        "than it is right.",
        largest=1.0,
    ),
    Guard(
        "no_signal",
        "Share of the groups whose rewards do not differ between completions",
        "{value:.0%} of the groups have no signal",
        "at least",
        GuardSetting("warn", 1.0, steps=10),
        "whole runs at loss 0: TRL #3857, ms-swift #4570; ten steps: ours",
        "Make the reward finer, choose problems that are solved sometimes, or raise num_generations or temperature.",
        largest=1.0,
    ),
    Guard(
        "unscored",
        "Share of the completions that no reward function scored (None)",
        "{value:.0%} of the completions were scored by no reward function",
        "at least",
        GuardSetting("stop", 1.0, steps=3),
        "ours: a scorer may fail for a step; three steps without one reward train nothing",
        "Call the reward function on a completion of completions/ and see why it returns None.",
        largest=1.0,
    ),
    Guard(
        "kl",
        "KL to the reference in nats a token (k3), where it is measured",
        "the KL to the reference is {value:.3g} nats a token",
        "above",
        GuardSetting("rollback", 12.0, steps=3),
        "the logarithm of the vocabulary, 10.8 for 49,152 tokens and 11.9 for 151,936: beyond it the reference would "
        "rather draw tokens at random. Explosions reach millions (torchforge #664); the demo peaks at 3.5, measured "
        "here",
        "Go on from the checkpoint with a lower learning_rate or a larger beta.",
    ),
    Guard(
        "grad_norm",
        "Gradient norm before clipping, as a multiple of the median of the 50 steps before",
        "the gradient norm is {value:.3g} times its median",
        "above",
        GuardSetting("warn", 100.0, steps=3),
        "creeping norms come before a collapse: INTELLECT-2 (arXiv 2505.07291), TRL #2980; the multiple is ours: the "
        "case study moves within 4 times its median, measured here",
        "Lower learning_rate, and keep max_grad_norm on.",
        smallest=1.0,
    ),
    Guard(
        "entropy",
        "Mean entropy of the policy in nats a token",
        "the entropy is {value:.2g} nats a token",
        "below",
        GuardSetting("warn", 0.05, steps=5),
        "Skywork-OR1 (arXiv 2505.22312) acts below 0.2; ours lies lower, as short answers to solved problems are sure "
        "of themselves",
        "Raise temperature or beta, use clip-higher (epsilon_high: 0.28) or an entropy bonus (use_adaptive_entropy).",
    ),
    Guard(
        "mismatch",
        "Growth of the gap between engine and learner: (sampling/mismatch - 1) as a multiple of the run's first five "
        "steps (of 0.00025 at least)",
        "the gap between engine and learner is {value:.3g} times that of the first steps",
        "above",
        GuardSetting("warn", 4.0, steps=3),
        "in float32 the bound of `agreement`; in bfloat16, which starts at 1.013 to 1.018 here, about 1.06, where "
        "NeMo RL's guide calls it an error",
        "Set dtype: float32, or correct for the gap with mismatch: token_truncate; a gap that jumps is stale weights: "
        "please report it.",
        smallest=1.0,
    ),
    Guard(
        "gap",
        "The gap between engine and learner over all tokens of a step: (sampling/mismatch - 1) as a multiple of what "
        "the precision allows, 0.001 in float32 and 0.15 in bfloat16",
        "engine and learner differ by {value:.3g} times what the precision allows, over all tokens of the step",
        "above",
        GuardSetting("rollback", 1.0),
        "the bounds of `agreement` and `precision_limit`, which look at a few tokens before the first step: a gap that "
        "begins at a later token, at another row or in a later step is seen here",
        "Go on from a checkpoint with engine: transformers; if the gap stays there, set dtype: float32 or report it.",
    ),
)
"""Every guard, in the order in which a run meets them."""

BY_NAME = {guard.name: guard for guard in GUARDS}


def defaults() -> dict[str, GuardSetting]:
    """Every guard as it is where a recipe does not name it."""
    return {guard.name: guard.default for guard in GUARDS}


def complete(written: Any) -> dict[str, GuardSetting]:
    """All guards with what was written about some: `{kl: {action: stop, threshold: 10}, entropy: off}`, or `off`.

    Raises:
        ConfigError: everything that is wrong, one sentence each.
    """
    if written is False or written == "off":
        return {name: replace(setting, action="off") for name, setting in defaults().items()}
    if not isinstance(written, Mapping):
        raise ConfigError(
            f"guards is {written!r}; expected a mapping such as {{kl: {{action: stop, threshold: 10}}, entropy: off}}, "
            "or off for none."
        )
    settings, wrong = defaults(), list[str]()
    for name, value in written.items():
        if name not in BY_NAME:
            near = did_you_mean(str(name), BY_NAME) or f" There are {', '.join(BY_NAME)}."
            wrong.append(f'guards: there is no guard "{name}".{near}')
        elif isinstance(value, GuardSetting):
            settings[name] = value
        else:
            settings[name] = _changed(BY_NAME[name], _in_full(value), wrong)
    if wrong:
        raise ConfigError(" ".join(wrong))
    return settings


RENAMED = {"not_judged": "unscored"}
"""Name of a guard in earlier versions -> its name."""


def with_new_names(written: Any) -> Any:
    """Guards as they were written, each under the name that it has now."""
    if not isinstance(written, Mapping):
        return written
    return {RENAMED.get(str(name), name): value for name, value in written.items()}


def resolved(settings: Mapping[str, GuardSetting]) -> dict[str, dict[str, Any]]:
    """The settings as plain values; `complete` takes them back."""
    return {name: asdict(setting) for name, setting in settings.items()}


def _in_full(value: Any) -> Any:
    """`off`, `stop` ... alone is the action; true and null change nothing."""
    if value is None or value is True:
        return {}
    if value is False:
        return {"action": "off"}
    return {"action": value} if isinstance(value, str) else value


def _changed(guard: Guard, written: Any, wrong: list[str]) -> GuardSetting:
    """The guard's setting with the keys that were written; adds a sentence for each that cannot be."""
    known = tuple(asdict(guard.default))
    if not isinstance(written, Mapping):
        wrong.append(f"guards.{guard.name} is {written!r}; expected an action or a mapping of {', '.join(known)}.")
        return guard.default
    changes: dict[str, Any] = {}
    for key, value in written.items():
        value = "off" if key == "action" and value is False else value
        problem = _problem(guard, str(key), value)
        if problem is None:
            changes[key] = float(value) if key == "threshold" else value
        else:
            wrong.append(f"guards.{guard.name}{problem}")
    return replace(guard.default, **changes)


def _problem(guard: Guard, key: str, value: Any) -> str | None:
    """What is wrong with one key, to be read after the guard's name."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key == "action":
        if value in guard.actions:
            return None
        near = did_you_mean(str(value), guard.actions)
        return f".action is {value!r}; expected one of {', '.join(guard.actions)}.{near}"
    if key == "threshold":
        if is_number and guard.smallest <= value <= guard.largest:
            return None
        most = "" if guard.largest == math.inf else f" and at most {guard.largest:g}"
        return f".threshold is {value!r}; expected a number of at least {guard.smallest:g}{most}."
    if key == "steps":
        if is_number and value == int(value) and value >= 1 and not (guard.is_before_training and value != 1):
            return None
        only = "1, as it is measured once" if guard.is_before_training else "a whole number of at least 1"
        return f".steps is {value!r}; expected {only}."
    known = ("action", "threshold", "steps")
    near = did_you_mean(key, known) or f" The keys are {', '.join(known)}."
    return f': unknown key "{key}".{near}'
