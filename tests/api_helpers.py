"""A tiny model on disk, tiny data and a small configuration: what tests of the user's side start from."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from tiny import tiny_model, tiny_tokenizer
from transformers.utils import logging

from groupwise import GRPOConfig, GRPOTrainer

ROWS = [{"prompt": f"say {word}", "answer": word} for word in ("one", "two", "three", "four", "five", "six")]
CHATS = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
SETTINGS: dict[str, Any] = {
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "dtype": "float32",
    "use_cpu": True,
}


def short(completions: list[Any], **kwargs: Any) -> list[float]:
    """A reward: the shorter the better."""
    return [-float(len(str(completion))) for completion in completions]


def model_folder(path: Path, *, dtype: torch.dtype = torch.float32, chat: bool = True, **settings: Any) -> Path:
    """A random two-layer Llama with its tokenizer, as `save_pretrained` writes it."""
    logging.disable_progress_bar()
    tiny_model(**settings).to(dtype).save_pretrained(path)
    logging.enable_progress_bar()
    tokenizer = tiny_tokenizer(chat=chat)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(path)
    return path


def config(output_dir: Path, **settings: Any) -> GRPOConfig:
    return GRPOConfig(output_dir=str(output_dir), **{**SETTINGS, **settings})


def trainer(
    output_dir: Path, *, model: Any = None, rewards: Any = short, data: Any = ROWS, rest: Any = None, **settings: Any
) -> GRPOTrainer:
    """A trainer of a tiny model; `rest` are its other arguments, `settings` those of the configuration."""
    arguments = {"processing_class": tiny_tokenizer(chat=True), **(rest or {})}
    policy = tiny_model() if model is None else model
    return GRPOTrainer(policy, rewards, config(output_dir, **settings), data, **arguments)


def yaml_text(value: Any) -> str:
    """A value as one writes it by hand, a key a line."""
    writer, text = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style = False
    writer.dump(value, text)
    return text.getvalue()


def write_recipe(path: Path, base: Path, /, **changes: Any) -> Path:
    """A recipe file beside its data; a change to None leaves the key out."""
    data = path.with_name("rows.jsonl")
    data.write_text("".join(f'{{"prompt": "{row["prompt"]}", "answer": "{row["answer"]}"}}\n' for row in ROWS))
    ingredients = {"model": str(base), "data": str(data), "rewards": [{"name": "length", "target": 4}]}
    keys = {**ingredients, "lora": {"r": 4}, "output_dir": str(path.with_name("run-of-recipe")), **SETTINGS, **changes}
    path.write_text(yaml_text({name: value for name, value in keys.items() if value is not None}))
    return path
