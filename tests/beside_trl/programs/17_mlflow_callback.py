"""A callback that filters the log by name, in the place of transformers' own for MLflow."""

import mlflow
from datasets import load_dataset
from transformers import TrainerCallback
from transformers.integrations import MLflowCallback

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []

names = ["loss", "grad_norm", "learning_rate", "num_tokens", "reward", "reward_std", "frac_reward_zero_std", "epoch"]
lengths = ["mean", "min", "max", "mean_terminated", "min_terminated", "max_terminated"]
names += [f"completions/{which}_length" for which in lengths] + ["completions/clipped_ratio"]
names += [f"rewards/reward_len/{what}" for what in ("mean", "std")]
names += [f"clip_ratio/{what}" for what in ("low_mean", "low_min", "high_mean", "high_max", "region_mean")]


class FilteredCallback(TrainerCallback):
    """Passes on the numbers of that list."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        chosen = {k: v for k, v in (logs or {}).items() if k in names and isinstance(v, int | float)}
        if chosen:
            mlflow.log_metrics(chosen, step=int(state.global_step))


def reward_len(completions, **kwargs):
    CALLS.append(len(completions))
    return [-abs(20 - len(completion)) for completion in completions]


trainer = GRPOTrainer(
    model="model",
    reward_funcs=reward_len,
    args=GRPOConfig(output_dir="mlflow", logging_steps=2, max_steps=4, report_to="none", max_completion_length=16),
    train_dataset=load_dataset("short", split="train"),
)
trainer.remove_callback(MLflowCallback)
trainer.add_callback(FilteredCallback())
trainer.train()
