"""The model card of an exported model. Holds nothing private: no tokens, no paths of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupwise import __version__
from groupwise.diagnose.trend import held_out_change
from groupwise.redact import without_secrets
from groupwise.report.about import About, about, formulas, is_hub_name, origin, public
from groupwise.report.history import evaluation_rows, size_in_short
from groupwise.runs import RunFolder, RunReader
from groupwise.runs.series import Record, series

SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "optim",
    "prompts_per_step",
    "num_generations",
    "num_minibatches",
    "num_iterations",
    "max_prompt_length",
    "max_completion_length",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_grad_norm",
    "sync_ref_model",
    "seed",
)
"""Fields of the recipe that a card prints, where they are recorded."""

LORA = ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora", "use_dora")


@dataclass(frozen=True)
class CardWords:
    """What the user adds to a model card."""

    title: str | None = None
    data_set: str | None = None
    """Hub id of the data set."""
    tags: tuple[str, ...] = ()


def model_card(
    run: str | Path | RunFolder,
    *,
    curve: str | None = None,
    name: str | None = None,
    is_adapter: bool = False,
    words: CardWords = CardWords(),
) -> str:
    """The text of README.md for the model that `run` trained.

    `curve` is the path of the reward picture relative to the card, `name` the Hub name that the card's example loads;
    `is_adapter`: the folder of the card holds an adapter, not a whole model. `words` are the user's own.
    """
    reader = RunReader(run)
    config, records = without_secrets(reader.config), reader.metrics()
    ingredients = about(config, reader.folder.path.resolve().name)
    sections = [
        _front_matter(ingredients, config, words, is_adapter=is_adapter),
        f"# {words.title or public(ingredients.run_name)}",
        f"{_base(ingredients.model)}, trained with {ingredients.algorithm} by groupwise {__version__}.",
        "## What was trained\n\n" + _table(("", ""), _ingredients(ingredients)),
        "## What it learned\n\n" + _claim(records),
        "## How much was trained\n\n" + _table(("", ""), size_in_short(records)),
        f"![Reward at each step]({curve})" if curve else "",
        _evaluation(records),
        _about_the_loss(ingredients),
        "## How to load it\n\n"
        + _how_to_load(name or "PATH_OR_NAME_OF_THIS_MODEL", is_chat=_was_chat(reader), is_adapter=is_adapter),
        "## Settings\n\n" + _table(("setting", "value"), _settings(ingredients.recipe, records)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(ingredients: About, config: Mapping[str, Any], words: CardWords, *, is_adapter: bool) -> str:
    """YAML that the Hub reads; values are JSON strings, which YAML takes as they are."""
    library = "peft" if is_adapter else "transformers"
    tags = ["grpo", "groupwise"]
    tags += [json.dumps(tag) for tag in dict.fromkeys(words.tags) if tag not in tags]
    lines = ["---", f"library_name: {library}", "pipeline_tag: text-generation", "tags:", *(f"- {t}" for t in tags)]
    known = origin(ingredients.model)
    if known is not None:
        lines += [f"base_model: {json.dumps(known.hub_id)}", f"license: {known.licence}"]
    elif is_hub_name(ingredients.model):
        lines.append(f"base_model: {json.dumps(ingredients.model)}")
    data_set = words.data_set or _hub_data_set(config)
    if data_set:
        lines += ["datasets:", f"- {json.dumps(data_set)}"]
    return "\n".join([*lines, "---"])


def _base(model: str) -> str:
    """The model that was trained; with what is known of where it comes from."""
    known = origin(model)
    return public(model) if known is None else f"{known.hub_id} ({known.how})"


def _hub_data_set(config: Mapping[str, Any]) -> str | None:
    recipe = config.get("recipe") or {}
    spec = recipe.get("data")
    name = spec.get("path") if isinstance(spec, Mapping) else spec
    is_file = isinstance(name, str) and name.endswith((".json", ".jsonl", ".csv", ".parquet"))
    return name if isinstance(name, str) and is_hub_name(name) and not is_file else None


def _ingredients(ingredients: About) -> list[tuple[str, str]]:
    rows = [
        ("base model", ingredients.model),
        ("its licence", known.licence if (known := origin(ingredients.model)) else ""),
        ("parameters", ingredients.parameters),
        ("data", ingredients.data),
        ("rewards", ", ".join(ingredients.rewards)),
        ("algorithm", ingredients.algorithm),
        *formulas(ingredients),
        ("a step", ingredients.batch),
    ]
    return [(label, value) for label, value in rows if value]


def _claim(records: Sequence[Record]) -> str:
    """What held-out problems carry, and nothing else: the reward of training has no error that a reader could judge."""
    found = held_out_change(records)
    if found is None:
        return "No claim is made: held-out problems were not evaluated before and after the training."
    return found.verdict


def _about_the_loss(ingredients: About) -> str:
    if ingredients.has_step_rewards:
        return "The loss is relative to each group and shows no progress; the reward is the curve to read."
    return "GRPO's loss starts at 0 and rises with beta x KL; the reward is the curve to read."


def _evaluation(records: Sequence[Record]) -> str:
    rows = evaluation_rows(records)
    if not rows:
        return ""
    body = "".join(f"| {which} | {first} | {last} |\n" for which, first, last in rows)
    return (
        "## Evaluation\n\nMean reward of held-out problems ± one standard error.\n\n"
        f"| completions | first | last |\n|---|---|---|\n{body}".rstrip()
    )


def _settings(recipe: Mapping[str, Any], records: Sequence[Record]) -> list[tuple[str, str]]:
    used = {key: recipe[key] for key in SETTINGS if recipe.get(key) is not None}
    rates = series(records, "learning_rate").values
    if "learning_rate" not in used and rates:
        used = {"learning_rate": max(rates), **used}
    lora = recipe.get("lora")
    if isinstance(lora, Mapping):
        used |= {f"lora.{key}": lora[key] for key in LORA if lora.get(key)}
    return [(f"`{key}`", f"`{json.dumps(value)}`") for key, value in used.items()]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {_cell(a)} | {_cell(b)} |" for a, b in rows)]
    return "\n".join(lines) if rows else "Nothing was recorded."


def _cell(text: str) -> str:
    return " ".join(public(text).replace("|", "\\|").split())


def _was_chat(reader: RunReader) -> bool:
    """Whether the model was trained on messages; a run without completions is taken for one that was."""
    steps = reader.completion_steps()
    groups = reader.completions(steps[0]) if steps else []
    return not groups or not isinstance(groups[0]["prompt"], str)


def _how_to_load(name: str, *, is_chat: bool, is_adapter: bool) -> str:
    ask = (
        "messages = [{'role': 'user', 'content': 'Your question'}]\n"
        "print(generate(messages, max_new_tokens=256)[0]['generated_text'][-1]['content'])\n"
        if is_chat
        else "print(generate('Your prompt', max_new_tokens=256, return_full_text=False)[0]['generated_text'])\n"
    )
    needed = "`transformers` and `peft`" if is_adapter else "Plain `transformers`"
    return (
        f"{needed}; groupwise is not needed.\n\n"
        "```python\n"
        "from transformers import pipeline\n\n"
        f"generate = pipeline('text-generation', model={json.dumps(name)})\n"
        f"{ask}"
        "```"
    )
