"""open-r1: a configuration with fields of its own, a registry with closures, callbacks, evaluation, the Hub."""

import logging
import os
import sys
from dataclasses import dataclass, field

import datasets
import torch
import transformers
from datasets import load_dataset
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from groupwise import trl
from groupwise.trl import GRPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config

CALLS = []
SAVED = []


@dataclass
class GRPOConfig(trl.GRPOConfig):
    """The configuration of the project: benchmarks and prompts beside the training."""

    benchmarks: list[str] = field(default_factory=lambda: [], metadata={"help": "after training"})
    callbacks: list[str] = field(default_factory=lambda: [], metadata={"help": "names of callbacks"})
    chat_template: str | None = field(default=None, metadata={"help": "instead of the tokenizer's"})
    system_prompt: str | None = field(default=None, metadata={"help": "first message"})
    hub_model_revision: str | None = field(default="main", metadata={"help": "branch"})
    overwrite_hub_revision: bool = field(default=False, metadata={"help": "whether to overwrite it"})
    wandb_entity: str | None = field(default=None, metadata={"help": "where runs are stored"})
    wandb_project: str | None = field(default=None, metadata={"help": "project of runs"})


@dataclass
class GRPOScriptArguments(ScriptArguments):
    """Names of rewards, and their numbers."""

    reward_funcs: list[str] = field(default_factory=lambda: ["format", "cosine"], metadata={"help": "rewards"})
    cosine_max_len: int = field(default=1000, metadata={"help": "longest"})


class AfterSave(TrainerCallback):
    """Notes what was saved."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            SAVED.append(state.global_step)


def format_reward(completions, **kwargs):
    CALLS.append(len(completions))
    return [float("<think>" in completion[0]["content"]) for completion in completions]


def get_cosine_scaled_reward(max_len):
    def cosine_scaled_reward(completions, **kwargs):
        return [1 - len(completion[0]["content"]) / max_len for completion in completions]

    return cosine_scaled_reward


logger = logging.getLogger(__name__)


def main(script_args, training_args, model_args):
    """Train, save, evaluate, push."""
    set_seed(training_args.seed)
    log_level = training_args.get_process_log_level()
    logger.setLevel(log_level)
    datasets.utils.logging.set_verbosity(log_level)
    transformers.utils.logging.set_verbosity(log_level)
    logger.warning(
        f"rank {training_args.local_rank}, device {training_args.device}, n_gpu {training_args.n_gpu}, "
        f"distributed {training_args.local_rank != -1}, 16 bits {training_args.fp16}"
    )
    last_checkpoint = None
    if os.path.isdir(training_args.output_dir):
        last_checkpoint = get_last_checkpoint(training_args.output_dir)
    if last_checkpoint is not None and training_args.resume_from_checkpoint is None:
        logger.info(f"Checkpoint detected, resuming training at {last_checkpoint=}.")
    if "wandb" in training_args.report_to:
        os.environ["WANDB_PROJECT"] = training_args.wandb_project or ""
    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    registry = {"format": format_reward, "cosine": get_cosine_scaled_reward(max_len=script_args.cosine_max_len)}

    def make_conversation(example):
        prompt = [{"role": "user", "content": example["prompt"]}]
        if training_args.system_prompt is not None:
            prompt.insert(0, {"role": "system", "content": training_args.system_prompt})
        return {"prompt": prompt}

    dataset = dataset.map(make_conversation)
    dtype = model_args.dtype if model_args.dtype in ["auto", None] else getattr(torch, model_args.dtype)
    training_args.model_init_kwargs = dict(
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        dtype=dtype,
        use_cache=not training_args.gradient_checkpointing,
    )
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=[registry[name] for name in script_args.reward_funcs],
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if training_args.eval_strategy != "no" else None,
        peft_config=get_peft_config(model_args),
        callbacks=[AfterSave()],
    )
    checkpoint = training_args.resume_from_checkpoint or last_checkpoint
    train_result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = train_result.metrics
    metrics["train_samples"] = len(dataset[script_args.dataset_train_split])
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    trainer.model.generation_config.eos_token_id = trainer.processing_class.eos_token_id
    trainer.save_model(training_args.output_dir)
    kwargs = {"dataset_name": script_args.dataset_name, "tags": ["open-r1"]}
    if trainer.accelerator.is_main_process:
        trainer.create_model_card(**kwargs)
        trainer.model.config.use_cache = True
        trainer.model.config.save_pretrained(training_args.output_dir)
    evaluation = None
    if training_args.do_eval:
        evaluation = trainer.evaluate()
        evaluation["eval_samples"] = len(dataset[script_args.dataset_test_split])
        trainer.log_metrics("eval", evaluation)
        trainer.save_metrics("eval", evaluation)
    if training_args.push_to_hub:
        trainer.push_to_hub(**kwargs)
    return trainer, evaluation


if __name__ == "__main__":
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config(sys.argv[1:])
    trainer, evaluation = main(script_args, training_args, model_args)
