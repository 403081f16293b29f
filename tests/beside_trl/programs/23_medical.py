"""A script for a domain: main_process_first, a table of the arguments, evaluation and its perplexity-like numbers."""

import logging
import os
from dataclasses import dataclass, field

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint

from groupwise.trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config

CALLS = []
logger = logging.getLogger(__name__)


@dataclass
class ScriptArguments:
    """Data and tokenizer."""

    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "instead of the model's"})
    dataset_name: str | None = field(default="gsm", metadata={"help": "data set"})
    train_samples: int | None = field(default=-1, metadata={"help": "-1 for all"})
    dataset_splits: str | None = field(default="train", metadata={"help": "split"})


def accuracy_reward(completions, answer, **kwargs):
    CALLS.append(len(completions))
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if a in content else 0.0 for content, a in zip(contents, answer, strict=True)]


def main():
    """Everything."""
    parser = TrlParser((ModelConfig, ScriptArguments, GRPOConfig))
    model_args, script_args, training_args = parser.parse_args_and_config()
    is_main_process = training_args.local_rank in [-1, 0]
    if is_main_process:
        logger.info("device %s, n_gpu %s, fp16 %s", training_args.device, training_args.n_gpu, training_args.fp16)
        logger.info("%s", training_args)
    tokenizer = AutoTokenizer.from_pretrained(script_args.tokenizer_name_or_path or model_args.model_name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    dataset = load_dataset(script_args.dataset_name, split=script_args.dataset_splits)
    if script_args.train_samples > 0:
        dataset = dataset.shuffle(seed=42).select(range(script_args.train_samples))
    with training_args.main_process_first(desc="Dataset preparation"):
        dataset = dataset.map(
            lambda row: {
                "prompt": [{"role": "user", "content": row["question"]}],
                "answer": row["answer"].split("####")[-1].strip(),
            }
        )
    split = dataset.train_test_split(test_size=0.25)
    model = AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path, dtype="auto", device_map="cpu")
    if training_args.gradient_checkpointing and getattr(model, "supports_gradient_checkpointing", False):
        model.gradient_checkpointing_enable()
        model.config.use_cache = False
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[accuracy_reward],
        args=training_args,
        train_dataset=split["train"],
        eval_dataset=split["test"] if training_args.eval_strategy != "no" else None,
        peft_config=get_peft_config(model_args),
    )
    last_checkpoint = None
    if os.path.isdir(training_args.output_dir):
        last_checkpoint = get_last_checkpoint(training_args.output_dir)
    metrics = trainer.train(resume_from_checkpoint=last_checkpoint).metrics
    metrics["train_samples"] = len(split["train"])
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    trainer.model.config.use_cache = True
    trainer.save_model(training_args.output_dir)
    training_args.distributed_state.wait_for_everyone()
    tokenizer.save_pretrained(training_args.output_dir)
    if trainer.accelerator.is_main_process:
        trainer.create_model_card(dataset_name=script_args.dataset_name, tags=["r1"])
        trainer.model.config.save_pretrained(training_args.output_dir)
    evaluation = None
    if training_args.do_eval:
        evaluation = trainer.evaluate()
        trainer.log_metrics("eval", evaluation)
        trainer.save_metrics("eval", evaluation)
    return trainer, evaluation


if __name__ == "__main__":
    trainer, evaluation = main()
