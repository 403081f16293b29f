"""Differences between the recipe that a run was started with and the one it is resumed with.

A key stands in one of the tables below, or else a change of it makes another experiment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

AROUND = frozenset(
    {
        *(
            "output_dir",
            "conventions",
            "run_name",
            "report_to",
            "logging_steps",
            "logging_first_step",
            "log_completions",
            "num_completions_to_print",
            "log_unique_prompts",
            "log_token_stats_steps",
            "trust_remote_code",
        ),
        *("save_strategy", "save_steps", "save_total_limit", "overwrite_output_dir"),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        *("eval_strategy", "eval_steps", "eval_on_start", "eval_greedy", "num_eval_problems", "num_generations_eval"),
        *("data.eval_split", "data.eval_path"),
        *("push_to_hub", "hub_model_id", "hub_private_repo"),
        *("sync_dir", "request_timeout", "server_timeout"),
        *("sandbox", "run_untrusted_code_without_sandbox"),
        "guards",
    }
)
"""Keys that no step depends on."""

ROUNDING = frozenset(
    {
        *("micro_batch_tokens", "max_concurrent_completions", "gradient_checkpointing"),
        *("servers", "server_kind", "sync"),
        *("engine", "attn_implementation", "use_cpu", "shard"),
    }
)
"""Keys that change in what order sums are added up, and so the last bits, but nothing that is computed."""

LENGTH = frozenset({"max_steps", "num_train_epochs"})
"""Keys that set how long a run is: compared as the number of steps."""

INGREDIENTS = frozenset({"model", "tokenizer", "data", "rewards", "lora", "task", "environment", "tools"})
"""Keys that a Python program and a recipe file write in forms of their own: a key of one side alone is no change."""

STEADY_SCHEDULES = frozenset({"constant", "constant_with_warmup", "inverse_sqrt"})
"""Schedules whose learning rate at a step does not depend on how many steps there are."""


@dataclass(frozen=True)
class Change:
    """One key with its value then and now."""

    key: str
    old: Any
    new: Any

    @property
    def is_around(self) -> bool:
        return self.key in AROUND

    @property
    def is_rounding(self) -> bool:
        return self.key in ROUNDING

    @property
    def is_another_experiment(self) -> bool:
        return not self.is_around and not self.is_rounding

    def __str__(self) -> str:
        return f"{self.key} was {self.old!r} and is now {self.new!r}"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every key whose value differs, those of the objective and of ingredients one by one; lengths are left out."""
    found = []
    for key in new.keys() & old.keys() - LENGTH:
        if key in INGREDIENTS:
            found += list(_inside(key, old[key], new[key]))
        elif key == "objective":
            found += [Change(f"objective.{k}", old[key].get(k), v) for k, v in new[key].items() if k in old[key]]
        else:
            found.append(Change(key, old[key], new[key]))
    return sorted((c for c in found if c.old != c.new), key=lambda change: change.key)


def _inside(key: str, old: Any, new: Any) -> Iterator[Change]:
    """Differences inside an ingredient, where both sides write it in the same form."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old.keys() & new.keys():
            yield from _inside(f"{key}.{name}", old[name], new[name])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (mine, theirs) in enumerate(zip(old, new, strict=True)):
            yield from _inside(f"{key}[{number}]", mine, theirs)
    elif type(old) is type(new) or old is None or new is None or isinstance(old, int | float):
        yield Change(key, old, new)


def keeps_schedule(recipe: Mapping[str, Any]) -> bool:
    """Whether steps done under a schedule of another length had the learning rates of this one."""
    return recipe["lr_scheduler_type"] in STEADY_SCHEDULES and not recipe["warmup_ratio"]
