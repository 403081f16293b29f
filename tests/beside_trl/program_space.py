"""The folder in which a program of programs/ runs: a tiny model, data sets, the YAML files of its command line."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import EOS, tiny_model, tiny_tokenizer

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
REFERENCE = HERE / "programs_in_trl.json"

_WORDS = ("one", "two", "three", "four")
_TEXTS = [{"prompt": f"say {word}"} for word in _WORDS]
_SUMS = [(a, b) for a in (1, 2) for b in (1, 2, 3, 4)]
DATA: dict[str, list[dict[str, Any]]] = {
    "short": _TEXTS,
    "gsm": [{"question": f"{a} and {b}", "answer": f"it is #### {a + b}"} for a, b in _SUMS],
    "math": [{"prompt": [{"role": "user", "content": f"{a} and {b}"}], "solution": f"${a + b}$"} for a, b in _SUMS],
    "countdown": [{"nums": [a, b], "target": a + b} for a, b in _SUMS],
}
"""Data sets by the folder's name; the test split is the first two rows."""

_BATCH = "--per_device_train_batch_size 4 --num_generations 4 --max_completion_length 16 --report_to none"
_LINE = f"--model_name_or_path model --logging_steps 1 --learning_rate 1e-5 {_BATCH}"
_LORA = "--use_peft --lora_target_modules q_proj v_proj"
ARGUMENTS: dict[str, list[str]] = {
    "04": [
        f"{_LINE} {_LORA} --dataset_name math --output_dir script --gradient_accumulation_steps 2 --max_steps 4 "
        "--reward_funcs accuracy_reward think_format_reward get_soft_overlong_punishment --push_to_hub "
        "--hub_model_id me/model"
    ],
    "08": ["--config mini_r1.yaml", "--config mini_r1.yaml --max_steps 6"],
    "10": ["--config open_r1.yaml --seed 7"],
    "18": [f"{_LINE} {_LORA} --output_dir batching --max_steps 2 --log_completions"],
    "20": ["compute_loss"],
    "21": ["2", "4"],
    "23": [
        f"{_LINE} {_LORA} --output_dir medical --num_train_epochs 1 --eval_strategy steps --eval_steps 2 "
        "--num_generations_eval 2 --per_device_eval_batch_size 2 --save_steps 3 --gradient_checkpointing false"
    ],
}
"""Command lines of a program, each of which is a start of it in the same folder; those of others are empty."""

YAML = {
    "mini_r1.yaml": """\
model_name_or_path: model
dtype: float32
bf16: true
dataset_id_or_path: countdown
max_steps: 4
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
learning_rate: 5.0e-7
lr_scheduler_type: cosine
warmup_steps: 0.25
beta: 0.001
max_completion_length: 16
num_generations: 4
logging_strategy: steps
logging_steps: 1
report_to: [none]
save_strategy: steps
save_steps: 2
seed: 42
output_dir: mini-r1
push_to_hub: false
""",
    "open_r1.yaml": """\
model_name_or_path: model
model_revision: main
dtype: float32
dataset_name: short
system_prompt: think first
bf16: true
do_eval: true
eval_strategy: steps
eval_steps: 2
num_generations_eval: 2
per_device_eval_batch_size: 2
gradient_accumulation_steps: 2
hub_model_id: me/open
hub_strategy: every_save
learning_rate: 2.0e-5
log_completions: true
log_level: info
logging_first_step: true
logging_steps: 1
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
max_completion_length: 16
max_steps: -1
num_generations: 4
num_train_epochs: 1
output_dir: open-r1
overwrite_output_dir: true
per_device_train_batch_size: 4
push_to_hub: true
report_to: [none]
reward_funcs: [format, cosine]
reward_weights: [1.0, 2.0]
save_strategy: steps
save_steps: 1
temperature: 0.7
use_vllm: true
warmup_steps: 0.1
""",
}


def source(number: str) -> Path:
    """The file of a program."""
    return next(PROGRAMS.glob(f"{number}_*"))


def make_space(folder: Path) -> None:
    """Write model, data and YAML files."""
    model = tiny_model(max_position_embeddings=1024)
    with torch.no_grad():  # completions of a dozen tokens: one direction of the hidden state leads to the end token
        model.get_input_embeddings().weight[:, 0] += 2.0
        model.get_output_embeddings().weight[EOS] = 0.0
        model.get_output_embeddings().weight[EOS, 0] = 3.0
    model.save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    for name, rows in DATA.items():
        (folder / name).mkdir()
        for split, chosen in (("train", rows), ("test", rows[:2])):
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    for name, text in YAML.items():
        (folder / name).write_text(text)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working directory, the command line and the modules are what they were, afterwards."""
    before, words = os.getcwd(), sys.argv
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = words


def start(path: Path, line: str) -> dict[str, Any]:
    """Run a program with this command line; its names afterwards."""
    np.random.seed(0)  # split without a seed, data sets would differ from start to start, and a resume is refused
    sys.argv = [path.name, *line.split()]
    return runpy.run_path(str(path), run_name="__main__")


def meaning(names: dict[str, Any]) -> dict[str, Any]:
    """What a program did, in numbers that both libraries have."""
    trainer = names["trainer"]
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    rates = [(entry["step"], entry["learning_rate"]) for entry in log if "learning_rate" in entry]
    return {
        "global_step": trainer.state.global_step,
        "epoch": trainer.state.epoch,
        "calls": names.get("CALLS"),
        "keys": sorted({key for entry in log for key in entry}),
        "learning_rates": rates,
        "last": sorted(trainer.state.log_history[-1]),
    }


def lines_of(number: str) -> Sequence[str]:
    return ARGUMENTS.get(number, [""])
