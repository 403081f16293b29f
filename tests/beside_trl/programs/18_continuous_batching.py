"""TRL's example of continuous batching: settings assigned to the parsed configuration."""

import re

import torch
from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config

CALLS = []


def correctness_reward(completions, reference_answer, **kwargs):
    CALLS.append(len(completions))
    found = [re.search(r"####\s*(\d+)", completion[-1]["content"]) for completion in completions]
    return [float(hit is not None and hit[1] == ref) for hit, ref in zip(found, reference_answer, strict=True)]


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    dtype = model_args.dtype if model_args.dtype in ["auto", None] else getattr(torch, model_args.dtype)
    training_args.model_init_kwargs = dict(
        revision=model_args.model_revision, attn_implementation=model_args.attn_implementation, dtype=dtype
    )
    dataset = load_dataset(
        script_args.dataset_name or "gsm",
        script_args.dataset_config or "default",
        split=script_args.dataset_train_split,
    )

    def make_conversation(example):
        return {
            "prompt": [{"role": "user", "content": example["question"]}],
            "reference_answer": example["answer"].split("####")[-1].strip(),
        }

    dataset = dataset.map(make_conversation, remove_columns=dataset.column_names)
    if torch.cuda.is_available():
        training_args.use_transformers_continuous_batching = True
    if training_args.transformers_continuous_batching_config is None:
        training_args.transformers_continuous_batching_config = {"use_cuda_graph": False}
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=correctness_reward,
        args=training_args,
        train_dataset=dataset,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
