"""mini-R1: a YAML file and a command line, countdown rewards, metrics and state saved, checkpoints looked for."""

import logging
import os
import re
from dataclasses import dataclass

from datasets import load_dataset
from transformers import AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint

from groupwise.trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config

CALLS = []


@dataclass
class ScriptArguments:
    """The data of the game."""

    dataset_id_or_path: str = "countdown"
    dataset_splits: str = "train"
    tokenizer_name_or_path: str = None


logger = logging.getLogger(__name__)


def format_reward_func(completions, target, **kwargs):
    CALLS.append(len(completions))
    texts = ["<think>" + completion for completion in completions]
    return [float(re.search(r"^<think>.*</think>\n<answer>.*</answer>$", t, re.DOTALL) is not None) for t in texts]


def equation_reward_func(completions, target, nums, **kwargs):
    found = [re.search(r"<answer>(.*?)</answer>", completion) for completion in completions]
    used = [sorted(map(int, re.findall(r"\d+", hit[1]))) if hit else None for hit in found]
    return [float(u == sorted(numbers)) for u, numbers in zip(used, nums, strict=True)]


def get_checkpoint(training_args):
    return get_last_checkpoint(training_args.output_dir) if os.path.isdir(training_args.output_dir) else None


def grpo_function(model_args, script_args, training_args):
    """Train, and everything that is written afterwards."""
    logger.info("Training parameters %s", training_args)
    tokenizer = AutoTokenizer.from_pretrained(
        script_args.tokenizer_name_or_path or model_args.model_name_or_path, revision=model_args.model_revision
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dataset = load_dataset(script_args.dataset_id_or_path, split=script_args.dataset_splits)
    dataset = dataset.shuffle(seed=42).select(range(8))

    def generate_r1_prompt(numbers, target):
        prefix = [
            {"role": "user", "content": f"make {target} of {numbers}"},
            {"role": "assistant", "content": "let me think\n<think>"},
        ]
        text = tokenizer.apply_chat_template(prefix, tokenize=False, continue_final_message=True)
        return {"prompt": text, "target": target, "nums": numbers}

    dataset = dataset.map(lambda row: generate_r1_prompt(row["nums"], row["target"]))
    split = dataset.train_test_split(test_size=0.25)
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=[format_reward_func, equation_reward_func],
        args=training_args,
        train_dataset=split["train"],
        eval_dataset=split["test"],
        peft_config=get_peft_config(model_args),
    )
    last_checkpoint = get_checkpoint(training_args)
    if last_checkpoint is not None and training_args.resume_from_checkpoint is None:
        logger.info("Checkpoint detected, resuming training at %s.", last_checkpoint)
    logger.info("*** %s epochs ***", training_args.num_train_epochs)
    train_result = trainer.train(resume_from_checkpoint=last_checkpoint)
    metrics = train_result.metrics
    metrics["train_samples"] = len(split["train"])
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    trainer.model.config.use_cache = True
    trainer.save_model(training_args.output_dir)
    training_args.distributed_state.wait_for_everyone()
    tokenizer.save_pretrained(training_args.output_dir)
    if trainer.accelerator.is_main_process:
        trainer.create_model_card({"tags": ["rl", "grpo", "tutorial"]})
    if training_args.push_to_hub is True:
        trainer.push_to_hub()
    return trainer, metrics


if __name__ == "__main__":
    parser = TrlParser((ModelConfig, ScriptArguments, GRPOConfig))
    model_args, script_args, training_args = parser.parse_args_and_config()
    trainer, metrics = grpo_function(model_args, script_args, training_args)
