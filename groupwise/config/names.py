"""Names that a configuration may use, as plain strings, so that checking them loads nothing.

A test holds the tables of shipped rewards and data sets equal to the registries that implement them.
"""

from __future__ import annotations

REWARD_PARAMETERS = {
    "length": ("target", "unit"),
    "format": ("tags", "mode", "think_in_prompt"),
    "exact_match": ("column", "strip", "ignore_case", "ignore_punctuation", "tag"),
    "math": ("column", "place", "tag", "decimals", "limit_s"),
    "number": ("column", "place", "tag", "tolerance", "relative"),
    "code": ("column", "entry_point", "score", "limit_s", "memory_mb", "num_workers"),
    "choice": ("column", "choices", "letters", "tag"),
    "fuzzy_match": ("column", "measure", "threshold", "tag"),
    "tag_count": ("tags", "think_in_prompt"),
    "r1_format": ("think_in_prompt",),
    "language": ("script", "tag"),
    "answer_consistency": ("answer_tag", "reasoning_tag", "tolerance"),
    "repetition": ("ngram", "penalty"),
    "cosine_length": ("max_length", "start", "end", "exceed", "unit"),
    "reasoning_steps": ("wanted", "tag"),
    "regex": ("pattern", "match", "ignore_case", "absent"),
    "json_schema": ("schema", "where", "tag", "valid_json"),
    "rouge": ("column", "variant", "measure", "stem"),
    "llm_judge": (
        "llm",
        "base_url",
        "api_key_env",
        "template",
        "system",
        "scale",
        "temperature",
        "max_tokens",
        "options",
        "concurrency",
        "num_retries",
        "request_timeout_s",
        "cache",
        "price_prompt",
        "price_completion",
    ),
}
"""Reward that ships with groupwise -> its parameters."""

REQUIRED_PARAMETERS = {
    "cosine_length": ("max_length",),
    "regex": ("pattern",),
    "json_schema": ("schema",),
    "llm_judge": ("llm",),
}
"""Those of them without a default."""

DATASETS = ("python-docs",)
"""Data sets that ship with groupwise."""

_ASKING = ("place", "system_prompt", "style")
_GENERATED = (*_ASKING, "level", "max_level", "size", "eval_size", "seed")
_FROM_HUB = (*_ASKING, "path", "subset", "revision", "split", "eval_split", "question", "solution")

TASKS = {
    "arithmetic": (*_GENERATED, "operators"),
    "countdown": (*_GENERATED, "max_number", "max_target", "partial"),
    "gsm8k": _FROM_HUB,
    "math": _FROM_HUB,
    "reasoning-gym": (*_ASKING, "strict", "size", "eval_size", "seed"),
}
"""Task (problems, rewards and prompt bound together) -> its parameters."""

ENVIRONMENTS = {
    "calculator": ("digits", "examples", "is_available"),
    "grid": ("size", "moves", "examples", "turn_rewards"),
    "guess": ("low", "high", "guesses", "examples"),
}
"""Environment that ships with groupwise -> its arguments."""

TOOLS = ("python",)
"""Tools that ship with groupwise."""

MCP = "mcp:"
"""Before the address of an MCP server whose tools a recipe takes, or before the command that starts one."""

GYM = "reasoning-gym"
"""The task that stands for all of that package, and passes further parameters on."""

TRACKERS = ("wandb", "tensorboard", "trackio")
"""Trackers that `report_to` may name."""

OPTIMIZERS = {
    "adamw": ("adamw", "adamw_torch", "adamw_hf", "adam", "paged_adamw", "paged_adamw_32bit", "adamw_32bit"),
    "adamw_fused": ("adamw_fused", "adamw_torch_fused", "fused_adamw"),
    "adamw_8bit": ("adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit", "paged_adamw_8bit", "adam_8bit"),
    "sgd": ("sgd",),
    "adafactor": ("adafactor",),
}
"""Optimizer -> every spelling of it, compared in lower case with "-" read as "_"."""

SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
)
"""Learning-rate schedules, by the names transformers gives them."""
