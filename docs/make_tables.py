"""Writes the tables of docs/api.md, config.md, doctor.md, from-trl.md, guards.md and metrics.md from the code.

python docs/make_tables.py           writes the pages
python docs/make_tables.py --check   writes nothing, and fails where a page differs from the code

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; the rest of a page is written by hand.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blocks import replaced
from generated import Made, run, stale
from public_api import api_tables
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import groupwise.trl
from groupwise import GRPOConfig
from groupwise.algo import Objective
from groupwise.config.compat import trainer_names
from groupwise.config.compat.attributes import NAMES, REFUSED
from groupwise.config.compat.foreign import Foreign
from groupwise.config.compat.loss_aliases import LOSS_TYPES, WORDS
from groupwise.config.compat.transformers_names import TRANSFORMERS_FIELDS, TRANSFORMERS_LEGACY_FIELDS
from groupwise.config.compat.trl_names import RLOO_FIELDS, TRL_FIELDS, TRL_LEGACY_FIELDS
from groupwise.config.fields import SECTIONS
from groupwise.config.guards import GUARDS
from groupwise.config.help_texts import meanings
from groupwise.config.objective_keys import READ_BY
from groupwise.config.recipe import RecipeFields
from groupwise.config.specs import DataSpec, LoraSpec, RewardSpec
from groupwise.config.task_spec import TaskSpec
from groupwise.diagnose.signs import SIGNS
from groupwise.runs import metrics
from groupwise.runs.trl_metrics import TRL_METRICS

DOCS = Path(__file__).parent

INGREDIENTS: dict[str, type[BaseModel]] = {
    "The ingredients of a recipe": RecipeFields,
    "The ingredients: data": DataSpec,
    "The ingredients: a task": TaskSpec,
    "The ingredients: a reward": RewardSpec,
    "The ingredients: lora": LoraSpec,
}
DIFFERENCES = (
    *("objective", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("drop_incomplete_step", "beta", "loss_type", "use_bias_correction_kl", "mismatch", "mismatch_max"),
    *("learning_rate", "optim", "gradient_checkpointing", "logging_steps", "output_dir"),
)
"""Keys whose default depends on the import."""


def main() -> None:
    run(__doc__, DOCS, made())


def stale_pages() -> list[str]:
    """Pages that differ from the code."""
    return stale(DOCS, made())


def made() -> Made:
    return {name: partial(filled, name) for name in PAGES}


def filled(name: str) -> str:
    """The page of that name with every table made anew."""
    page = (DOCS / name).read_text(encoding="utf-8")
    for block, text in PAGES[name]().items():
        page = replaced(page, block, text)
    return page


def config_tables() -> dict[str, str]:
    sections = {**INGREDIENTS, **{str(section.__doc__): section for section in SECTIONS}}
    axes = [field.name for field in dataclasses.fields(Objective)]
    return {
        "keys": "\n\n".join(f"## {title}\n\n{keys(model)}" for title, model in sections.items()),
        "presets": textwrap.fill(", ".join(f"`{name}`" for name in Objective.preset_names()), 120) + ".",
        "axes": table(
            ("axis", "default (grpo)", "has an effect with", "other words that set it"),
            ((f"`{axis}`", value(getattr(Objective(), axis)), readers(axis), words(axis)) for axis in axes),
        ),
    }


def from_trl_tables() -> dict[str, str]:
    ours, theirs = GRPOConfig(), groupwise.trl.GRPOConfig()
    shown = partial(shown_default, ours), partial(shown_default, theirs)
    return {
        "defaults": table(
            ("key", "`from groupwise import`", "`from groupwise.trl import`"),
            ((f"`{key}`", *(each(key) for each in shown)) for key in DIFFERENCES),
        ),
        "loss-types": table(
            ("`loss_type`", "axes"),
            ((f"`{name}`", ", ".join(f"`{a}: {v}`" for a, v in axes.items())) for name, axes in LOSS_TYPES.items()),
        ),
        "trl-metrics": table(
            ("key in TRL's log", "what TRL 1.16 logs for a rollout", "difference"),
            ((f"`{m.key}`", m.definition, m.difference) for m in TRL_METRICS),
        ),
        "arguments": foreign(trainer_names.ARGUMENTS, "argument"),
        "methods": foreign(trainer_names.METHODS, "method"),
        "attributes": foreign(trainer_names.ATTRIBUTES, "attribute"),
        "hooks": foreign(trainer_names.HOOKS, "method"),
        "callback-keywords": foreign(trainer_names.CALLBACK_KEYWORDS, "keyword"),
        "trl": foreign(TRL_FIELDS),
        "rloo": foreign(RLOO_FIELDS),
        "argument-attributes": attributes(),
        "transformers": foreign(TRANSFORMERS_FIELDS),
        "older": foreign((*TRL_LEGACY_FIELDS, *TRANSFORMERS_LEGACY_FIELDS)),
    }


def guard_tables() -> dict[str, str]:
    head = ("guard", "watches", "acts when", "source of the bound", "by default", "what to do")
    rows = ((f"`{g.name}`", g.watches, g.bound(g.default), g.source, f"`{g.default.action}`", g.remedy) for g in GUARDS)
    return {"guards": table(head, rows)}


def doctor_tables() -> dict[str, str]:
    head = ("sign", "symptom", "from which value on", "why that value")
    rows = ((f"`{sign.name}`", sign.symptom, sign.bound, sign.reason) for sign in SIGNS)
    return {"signs": table(head, rows), "found": found_by_doctor()}


def found_by_doctor() -> str:
    """The table of `bench/doctor.py`."""
    result = json.loads((DOCS.parent / "bench/results/doctor.json").read_text(encoding="utf-8"))
    signs = table(
        ("sign", "run", "steps", "found after step", "beside it"),
        (
            (
                f"`{name}`",
                f"made by {row['made_by']}",
                str(row["num_steps"]),
                str(row["found_at"]),
                ", ".join(row["beside_it"]),
            )
            for name, row in result["signs"].items()
        ),
    )
    healthy = table(
        ("healthy run of", "steps", "findings after any of its steps"),
        ((row["run"], str(row["num_steps"]), str(len(row["found"]))) for row in result["healthy"]),
    )
    return f"{signs}\n\n{healthy}"


def metric_tables() -> dict[str, str]:
    head = ("key", "unit", "meaning", "good", "healthy", "source")
    good = {"up": "up", "down": "down", "steady": "steady", "zero": "0", "none": ""}
    parts = (
        f"## {title}\n\n"
        + table(head, ((f"`{m.key}`", m.unit, m.definition, good[m.better], m.healthy, m.source) for m in section))
        for title, section in metrics.SECTIONS.items()
    )
    return {"metrics": "\n\n".join(parts)}


PAGES: dict[str, Callable[[], dict[str, str]]] = {
    "api.md": api_tables,
    "config.md": config_tables,
    "doctor.md": doctor_tables,
    "from-trl.md": from_trl_tables,
    "guards.md": guard_tables,
    "metrics.md": metric_tables,
}
"""Page -> its tables, each under the name of its block."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows))
    return "\n".join([next(lines), "|---" * len(head) + "|", *lines])


def keys(model: type[BaseModel]) -> str:
    """The fields of a section: key, default, meaning."""
    texts = meanings(model)
    rows = ((f"`{name}`", default(field), texts[name]) for name, field in model.model_fields.items())
    return table(("key", "default", "meaning"), rows)


def shown_default(config: GRPOConfig, key: str) -> str:
    """What a configuration in which nothing is set has for a key."""
    if key == "objective":
        return value(config.preset)
    if key == "learning_rate" and config.settings.learning_rate is None:
        return "`1e-06`, with LoRA `1e-05`"
    return value(getattr(config, key))


def default(field: FieldInfo) -> str:
    """The default value, or the page that has it where it is a table of its own."""
    if isinstance(field.json_schema_extra, dict) and "page" in field.json_schema_extra:
        return "[{0}]({0})".format(field.json_schema_extra["page"])
    return "required" if field.is_required() else value(field.get_default(call_default_factory=True))


def value(found: Any) -> str:
    """A value as YAML has it."""
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, tuple):
        found = list(found)
    if isinstance(found, str) and not found.isprintable():
        found = json.dumps(found)
    return f"`{found:g}`" if isinstance(found, float) else f"`{found}`"


def readers(axis: str) -> str:
    """The choices of other axes that an axis needs; empty for one that always has an effect."""
    found = READ_BY.get(axis, {})
    return "; ".join(f"`{other}` {', '.join(f'`{name}`' for name in names)}" for other, names in found.items())


def words(axis: str) -> str:
    """The ecosystem's words that set an axis."""
    return ", ".join(f"`{word}`" for word, axes in WORDS.items() if axis in axes)


def attributes() -> str:
    """Attributes and methods of TrainingArguments that are no fields."""
    rows = ((f"`{name}`", "refused" if name in REFUSED else "there", REFUSED.get(name, "")) for name in sorted(NAMES))
    return table(("attribute", "here", "instead"), rows)


def foreign(fields: Iterable[Foreign], what: str = "field") -> str:
    """Names of another library: name, kind, what becomes of it."""
    rows = ((f"`{entry.name}`", entry.kind, entry.sentence) for entry in fields)
    return table((what, "here", "what becomes of it"), rows)


if __name__ == "__main__":
    main()
